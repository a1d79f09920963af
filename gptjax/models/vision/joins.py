"""Joins of a vision tower and a decoder as settings of a run: projected, gated, tiled.

The same blocks as those of the published models in `image_text.py` and `tiled.py`, for one picture
before each text, so that training, evaluation and decoding from caches share one path.

Letters: `P` patches of a picture, `S` the vectors that cross-attention sees, `W` the tower's width.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
from gptjax.models.config import ModelConfig
from gptjax.models.layer_stack import unstacked
from gptjax.models.mixers.mixer import mixer_of
from gptjax.models.mlp import MLPS
from gptjax.models.param_count import sizes
from gptjax.models.parameters import init_stacked
from gptjax.models.product import product
from gptjax.models.remat import recomputed
from gptjax.models.vision import tile_encoder, vit
from gptjax.models.vision.config import JOINS, Join, PictureConfig, Seen
from gptjax.models.vision.cross_attention import GatedBlock, ShownAttention
from gptjax.models.vision.tile_encoder import MULTIPLE, TileConfig
from gptjax.models.vision.vit import VisionConfig

Params = Any  # nested dict of float32 arrays
TOWER = {
    "image_size": "image_size",
    "patch_size": "patch_size",
    "channels": "channels",
    "width": "tower_width",
    "depth": "tower_depth",
    "num_heads": "tower_heads",
    "mlp_width": "tower_mlp_width",
}
"""Fields of the towers' configs, and the settings of `model.vision` that they are."""


def vit_of(config: ModelConfig) -> VisionConfig:
    """The vision transformer of projected and gated joins."""
    return VisionConfig(**_shared(config))


def tiles_of(config: ModelConfig) -> TileConfig:
    """The tower of the tiled join: a picture is one tile."""
    return TileConfig(
        **_shared(config),
        global_depth=config.vision.global_depth,
        read_layers=(),
        ratios=((1, 1),),
        max_tiles=1,
    )


def cross_of(config: ModelConfig) -> ModelConfig:
    """The cross-attention blocks, as a decoder's settings have them: one for each place."""
    return dataclasses.replace(
        config.at_rest,
        vision=PictureConfig(),
        mixer=type(config.mixer)(),
        depth=-(-config.depth // config.vision.every),
        layer_pattern=("global",),
        mlp_pattern=("dense",),
        window=0,
        block="sequential",
        norm_place="pre",
        attention_gate=False,
        attention_sinks=False,
        qk_norm="shared" if config.vision.join == "tiled" else "none",
    )


def scaled(pictures_BYXC: jax.Array) -> jax.Array:
    """Pixels between −1 and 1; numbers that are no integers are so already."""
    if not jnp.issubdtype(pictures_BYXC.dtype, jnp.integer):
        return pictures_BYXC
    return pictures_BYXC.astype(jnp.float32) / 127.5 - 1.0


def _shared(config: ModelConfig) -> dict[str, Any]:
    sizes_of = {name: getattr(config.vision, own) for name, own in TOWER.items()}
    return {**sizes_of, "compute_dtype": config.compute_dtype, "init_scale": config.init_scale}


def _matrix(key: jax.Array, W: int, D: int) -> Params:
    return {"kernel": jax.random.normal(key, (W, D)) * W**-0.5, "bias": jnp.zeros(D)}


def _init_cross(config: ModelConfig, width: int, key: jax.Array) -> Params:
    cross = cross_of(config)
    x_BTD, memory_BSW = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1, width))
    return init_stacked(GatedBlock(cross, parent=None), cross.depth, key, x_BTD, memory_BSW, None)


def _between(config: ModelConfig, params: Params, seen: Seen) -> dict[int, Callable]:
    """The gated blocks, each before its layer."""
    cross = cross_of(config)
    apply = recomputed(config.remat, GatedBlock(cross, parent=None).apply)

    def block(one: Params, keys: tuple) -> Callable[[jax.Array], jax.Array]:
        return lambda x_BTD: apply({"params": one}, x_BTD, None, None, None, keys)

    each = zip(unstacked(params["cross"]), seen.keys, strict=True)
    return {number * config.vision.every: block(*one) for number, one in enumerate(each)}


def _keys(config: ModelConfig, params: Params, memory_BSW: jax.Array) -> Seen:
    """Keys and values of all cross-attention blocks, which do not depend on the text."""
    attention = ShownAttention(cross_of(config), parent=None)
    found: list[Any] = [
        attention.apply({"params": one["attention"]}, None, memory_BSW, None)
        for one in unstacked(params["cross"])
    ]
    return Seen(None, tuple(found))


def _patches(config: ModelConfig, params: Params, pictures_BYXC: jax.Array) -> jax.Array:
    """x_BPW without the class token."""
    return vit.encode_images(vit_of(config), params["tower"], scaled(pictures_BYXC))[:, 1:]


def _init_projected(config: ModelConfig, key: jax.Array) -> Params:
    layers, D = config.vision.projector_layers, config.width
    tower_key, *keys = jax.random.split(key, 1 + layers)
    widths = (config.vision.tower_width, *[D] * (layers - 1))
    matrices = [_matrix(key, W, D) for key, W in zip(keys, widths, strict=True)]
    return {"tower": vit.init_vision(vit_of(config), tower_key), "projector": matrices}


def _see_projected(config: ModelConfig, params: Params, pictures_BYXC: jax.Array) -> Seen:
    x_BPW = _patches(config, params, pictures_BYXC)
    for number, matrix in enumerate(params["projector"]):
        x_BPW = product(ops.gelu(x_BPW) if number else x_BPW, matrix["kernel"], matrix["bias"])
    return Seen(x_BPW)


def _init_gated(config: ModelConfig, key: jax.Array) -> Params:
    tower_key, cross_key = jax.random.split(key)
    tower = vit.init_vision(vit_of(config), tower_key)
    return {"tower": tower, "cross": _init_cross(config, config.vision.tower_width, cross_key)}


def _see_gated(config: ModelConfig, params: Params, pictures_BYXC: jax.Array) -> Seen:
    return _keys(config, params, _patches(config, params, pictures_BYXC))


def _init_tiled(config: ModelConfig, key: jax.Array) -> Params:
    tower_key, matrix_key, cross_key = jax.random.split(key, 3)
    return {
        "tower": tile_encoder.init_tiles(tiles_of(config), tower_key),
        "projector": _matrix(matrix_key, config.vision.tower_width, config.width),
        "cross": _init_cross(config, config.width, cross_key),
    }


def _see_tiled(config: ModelConfig, params: Params, pictures_BYXC: jax.Array) -> Seen:
    tiles_BJYXC = scaled(pictures_BYXC)[:, None]
    one_B = jnp.ones(len(pictures_BYXC), jnp.int32)
    x_BJQU = tile_encoder.encode_tiles(tiles_of(config), params["tower"], tiles_BJYXC, one_B)
    matrix = params["projector"]
    return _keys(config, params, product(x_BJQU[:, 0], matrix["kernel"], matrix["bias"]))


def _places(config: ModelConfig) -> int:
    return vit_of(config).patches


@functools.lru_cache(maxsize=64)
def _leaves(init: Callable, tower: Any) -> int:
    shapes = jax.eval_shape(functools.partial(init, tower), jax.random.key(0))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def _params_projected(config: ModelConfig) -> int:
    W, D, more = config.vision.tower_width, config.width, config.vision.projector_layers - 1
    return _leaves(vit.init_vision, vit_of(config)) + (W + 1) * D + more * (D + 1) * D


def _params_cross(config: ModelConfig, width: int) -> int:
    """Blocks as a decoder's, with gates and with keys and values of vectors of another width."""
    cross = cross_of(config)
    last_norm = sizes(dataclasses.replace(cross, depth=0))[1]
    narrower = 2 * (config.width - width) * cross.kv_heads * cross.head_width
    return sizes(cross)[1] - last_norm + cross.depth * (2 - narrower)


def _params_gated(config: ModelConfig) -> int:
    width = config.vision.tower_width
    return _leaves(vit.init_vision, vit_of(config)) + _params_cross(config, width)


def _params_tiled(config: ModelConfig) -> int:
    W, D = config.vision.tower_width, config.width
    tower = _leaves(tile_encoder.init_tiles, tiles_of(config))
    return tower + (W + 1) * D + _params_cross(config, D)


def _tower_flops(blocks: ModelConfig, vectors: int, patch: int) -> float:
    """The patches' matrix and all blocks, attention over the full square."""
    blocks = dataclasses.replace(blocks, seq_len=vectors)
    each = sum(
        mixer_of(blocks, layer.mixer).flops(blocks) + MLPS[layer.mlp].flops(blocks)
        for layer in blocks.layers_of_depth
    )
    return vectors * (2.0 * patch * blocks.width + each)


def _vit_flops(config: ModelConfig) -> float:
    tower = vit_of(config)
    return _tower_flops(tower.blocks, 1 + tower.patches, tower.channels * tower.patch_size**2)


def _flops_projected(config: ModelConfig) -> tuple[float, float]:
    W, D, more = config.vision.tower_width, config.width, config.vision.projector_layers - 1
    return _vit_flops(config) + 2.0 * _places(config) * (W * D + more * D * D), 0.0


def _flops_cross(config: ModelConfig, vectors: int, width: int) -> tuple[float, float]:
    """(keys and values of a picture, all that a token does in the cross-attention blocks)."""
    cross = cross_of(config)
    N, K, H = cross.num_heads, cross.kv_heads, cross.head_width
    keys = 2.0 * 2 * vectors * width * K * H
    token = 2.0 * 2 * config.width * N * H + 2.0 * 2 * vectors * N * H
    return cross.depth * keys, cross.depth * (token + MLPS["dense"].flops(cross))


def _flops_gated(config: ModelConfig) -> tuple[float, float]:
    keys, token = _flops_cross(config, vit_of(config).patches, config.vision.tower_width)
    return _vit_flops(config) + keys, token


def _flops_tiled(config: ModelConfig) -> tuple[float, float]:
    tower = tiles_of(config)
    blocks = dataclasses.replace(tower.blocks, depth=tower.depth + tower.global_depth)
    padded = MULTIPLE * math.ceil(tower.tokens / MULTIPLE)
    picture = _tower_flops(blocks, padded, tower.channels * tower.patch_size**2)
    keys, token = _flops_cross(config, tower.tokens, config.width)
    return picture + 2.0 * tower.tokens * config.vision.tower_width * config.width + keys, token


def _check(config: ModelConfig) -> None:
    """The tower's own rules, under the names of the settings."""
    try:
        vit.validate_vision(vit_of(config))
    except UserError as error:
        raise UserError(f"model.vision: of the tower, {error}") from error


def _check_projected(config: ModelConfig) -> None:
    _check(config)
    if _places(config) >= config.seq_len:
        raise UserError(
            f"model.vision.patch_size={config.vision.patch_size} gives a picture "
            f"{_places(config)} of the model.seq_len={config.seq_len} positions; give larger "
            "patches or a longer context"
        )


JOINS["projected"] = Join(
    _init_projected,
    _see_projected,
    places=_places,
    params=_params_projected,
    flops=_flops_projected,
    check=_check_projected,
)
JOINS["gated"] = Join(
    _init_gated,
    _see_gated,
    _between,
    params=_params_gated,
    flops=_flops_gated,
    check=_check,
)
JOINS["tiled"] = Join(
    _init_tiled,
    _see_tiled,
    _between,
    params=_params_tiled,
    flops=_flops_tiled,
    check=_check,
)
