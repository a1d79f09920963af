"""Vision encoder of Llama 3.2: tiles of an image, encoded alone in local layers, then together.

Grattafiori et al. (2024), section 7.1, and `transformers`' MllamaVisionModel. Letters: `J` tiles of
an image, `Q` tokens of a tile (the class token and then its patches), `M` the same with padding,
`W` the width, `U` that of the features.
"""

import dataclasses
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.models.config import ModelConfig
from gptjax.models.mixers.attention import BOTH_WAYS
from gptjax.models.norms import Norm
from gptjax.models.param_count import sizes
from gptjax.models.parameters import activation_type, init_stacked
from gptjax.models.product import product
from gptjax.models.vision.cross_attention import GatedBlock
from gptjax.models.vision.vit import check_multiples, cut_patches

Params = Any  # nested dict of float32 arrays

MULTIPLE = 8
"""A tile's tokens are padded to a multiple of this."""

OUTER_EPS = 1e-5
"""Epsilon of the norms before and after the local layers, whatever `norm_eps` says."""


@dataclasses.dataclass(frozen=True)
class TileConfig:
    """The tower of Llama 3.2 11B Vision.

    Attributes:
      image_size, patch_size: sides of the square tiles and patches, in pixels.
      channels: of a pixel.
      mlp_width: hidden width of the feed-forward; 0: 4 x width.
      depth: local layers, without gates.
      global_depth: gated layers after them.
      read_layers: local layers whose outputs are part of the features; 0 is the first.
      ratios: rows and columns of the tiles of an image; its ratio is its number here, from 1 on.
      max_tiles: tiles that every image is padded to.
      norm_eps: added to the variance, in the layers.
      compute_dtype: type of activations and products.
    """

    image_size: int = 448
    patch_size: int = 14
    channels: int = 3
    width: int = 1280
    depth: int = 32
    global_depth: int = 8
    num_heads: int = 16
    mlp_width: int = 0
    read_layers: tuple[int, ...] = (3, 7, 15, 23, 30)
    ratios: tuple[tuple[int, int], ...] = (
        (1, 1),
        (1, 2),
        (1, 3),
        (1, 4),
        (2, 1),
        (2, 2),
        (3, 1),
        (4, 1),
    )
    max_tiles: int = 4
    norm_eps: float = 1e-5
    init_scale: float = 0.02
    compute_dtype: str = "float32"

    @property
    def tokens(self) -> int:
        """Tokens of a tile: the class token and the patches."""
        return 1 + (self.image_size // self.patch_size) ** 2

    @property
    def feature_width(self) -> int:
        """Width of the features: of the last layer and of those that are read."""
        return self.width * (1 + len(self.read_layers))

    @property
    def blocks(self) -> ModelConfig:
        """The local layers, as a decoder's settings have them."""
        return ModelConfig(
            depth=self.depth,
            width=self.width,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm_eps=self.norm_eps,
            init_scale=self.init_scale,
            compute_dtype=self.compute_dtype,
            mlp="gelu",
            positions="none",
            layer_pattern=(BOTH_WAYS,),
            bias_places=("mlp", "norm"),
        )


def validate_tiles(config: TileConfig) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    least = ("patch_size", "channels", "depth", "global_depth", "num_heads", "max_tiles")
    for name in least:
        if getattr(config, name) < 1:
            raise UserError(f"{name}={getattr(config, name)} must be at least 1")
    check_multiples(config)
    for layer in config.read_layers:
        if not 0 <= layer < config.depth:
            raise UserError(f"read_layers has {layer}; choose among 0 to {config.depth - 1}")
    for rows, columns in config.ratios:
        if not 1 <= rows * columns <= config.max_tiles:
            raise UserError(
                f"ratios has {rows} x {columns} tiles for max_tiles={config.max_tiles}; "
                "give more tiles, or fewer"
            )


def init_tiles(config: TileConfig, key: jax.Array) -> Params:
    """Fresh parameters: a nested dict of float32 arrays, blocks stacked on a leading axis.

    The patches' matrix keeps the size of its inputs; the class token, the biases and the gates of
    positions are zero, those of global layers π/4, as in the released code.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate_tiles(config)
    W, J, Q, kinds = config.width, config.max_tiles, config.tokens, 1 + len(config.ratios)
    keys = jax.random.split(key, 7)
    L = config.channels * config.patch_size**2

    def normal(key: jax.Array, *shape: int) -> jax.Array:
        return jax.random.normal(key, shape) * config.init_scale

    def norm() -> Params:
        return {"scale": jnp.ones(W), "bias": jnp.zeros(W)}

    def blocks(gate: float | None, depth: int, key: jax.Array) -> Params:
        block = GatedBlock(config.blocks, gate, parent=None)
        return init_stacked(block, depth, key, jnp.zeros((1, 1, W)), None, None)

    return {
        "patch": jax.random.normal(keys[0], (L, W)) * L**-0.5,
        "class_token": jnp.zeros(W),
        "positions": normal(keys[1], Q, W),
        "tile_positions": normal(keys[2], kinds, J, Q, W),
        "position_gate": jnp.zeros(()),
        "first_tiles": {"table": normal(keys[3], kinds, J, W), "gate": jnp.zeros(())},
        "last_tiles": {"table": normal(keys[4], kinds, J, W), "gate": jnp.zeros(())},
        "first_norm": norm(),
        "last_norm": norm(),
        "local": blocks(None, config.depth, keys[5]),
        "global": blocks(math.pi / 4, config.global_depth, keys[6]),
    }


def encode_tiles(
    config: TileConfig, params: Params, tiles_BJYXC: jax.Array, ratios_B: jax.Array
) -> jax.Array:
    """x_BJQU of the class token and the patches of every tile, row by row.

    The features are the last layer's output and then, number by number, that of each of
    `read_layers`. Layers are scanned.

    Args:
      tiles_BJYXC: the tiles of an image row by row, padded with any to `max_tiles`, as the weights
        expect them.
      ratios_B: the number of an image's ratio, from 1 on; 0: there is no image, and it is encoded
        as if it had one tile.

    Raises:
      UserError: where the tiles do not fit the config.
    """
    B, J, Q = len(ratios_B), config.max_tiles, config.tokens
    if tiles_BJYXC.ndim != 5 or tiles_BJYXC.shape[:2] != (B, J):
        raise UserError(
            f"tiles of shape {tiles_BJYXC.shape} do not fit {B} ratios and max_tiles={J}; give "
            "[batch, tiles, rows, columns, channels]"
        )
    x_BJQW = _embed(config, params, tiles_BJYXC, ratios_B)
    x_BJQW = _norm(config, params["first_norm"], x_BJQW)
    M = -(-Q // MULTIPLE) * MULTIPLE
    x_BJMW = jnp.pad(x_BJQW, ((0, 0), (0, 0), (0, M - Q), (0, 0)))
    visible_BTT = _visible(config, ratios_B, M)

    def flat(x_BJMW: jax.Array) -> jax.Array:
        return x_BJMW.reshape(B, J * M, -1)

    x_BTW, read = _local_layers(config, params["local"], flat(x_BJMW), visible_BTT)
    x_BTW = _norm(config, params["last_norm"], x_BTW)
    x_BJMW = x_BTW.reshape(B, J, M, -1)
    x_BJMW = x_BJMW + _of_tiles(params["last_tiles"], ratios_B).astype(x_BJMW.dtype)
    x_BTW = _scan(config, math.pi / 4, params["global"], flat(x_BJMW), visible_BTT)
    features = [x_BTW]
    if read:
        features.append(jnp.stack(read, axis=-1).reshape(B, J * M, -1))
    return jnp.concatenate(features, axis=-1).reshape(B, J, M, -1)[:, :, :Q]


def tile_counts(config: TileConfig, ratios: jax.Array) -> jax.Array:
    """Tiles of images of these ratios; 0 where there is no image."""
    counts = np.array([0, *(rows * columns for rows, columns in config.ratios)])
    return jnp.asarray(counts)[ratios]


def count_tiles(config: TileConfig) -> int:
    """Parameters, from the settings alone.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate_tiles(config)
    W, J, Q, kinds = config.width, config.max_tiles, config.tokens, 1 + len(config.ratios)
    both = dataclasses.replace(config.blocks, depth=config.depth + config.global_depth)
    layers = sizes(both)[1] + 2 * config.global_depth  # with one of the two outer norms
    patches = config.channels * config.patch_size**2 * W
    positions = Q * W + kinds * J * Q * W + 1
    return patches + W + positions + 2 * (kinds * J * W + 1) + layers + 2 * W


def _embed(
    config: TileConfig, params: Params, tiles_BJYXC: jax.Array, ratios_B: jax.Array
) -> jax.Array:
    """Class token and patches with everything that says where they are: x_BJQW."""
    B, J, *pixels = tiles_BJYXC.shape
    size, patch, channels = config.image_size, config.patch_size, config.channels
    x_bPL = cut_patches(
        tiles_BJYXC.reshape(B * J, *pixels), size=size, patch=patch, channels=channels
    )
    x_bPW = product(x_bPL.astype(activation_type(config.blocks)), params["patch"])
    x_BJPW = x_bPW.reshape(B, J, -1, config.width)
    x_BJPW = x_BJPW + _of_tiles(params["first_tiles"], ratios_B).astype(x_BJPW.dtype)
    class_BJ1W = jnp.broadcast_to(
        params["class_token"].astype(x_BJPW.dtype), (B, J, 1, config.width)
    )
    x_BJQW = jnp.concatenate([class_BJ1W, x_BJPW], axis=2)
    gate = jnp.tanh(params["position_gate"])
    places_BJQW = (1 - gate) * params["positions"] + gate * params["tile_positions"][ratios_B]
    return x_BJQW + places_BJQW.astype(x_BJQW.dtype)


def _of_tiles(params: Params, ratios_B: jax.Array) -> jax.Array:
    """[B, J, 1, W]: a vector for each tile of an image of that ratio, behind a gate."""
    return jnp.tanh(params["gate"]) * params["table"][ratios_B][:, :, None]


def _norm(config: TileConfig, params: Params, x: jax.Array) -> jax.Array:
    outer = dataclasses.replace(config.blocks, norm_eps=OUTER_EPS)
    normed: Any = Norm(outer, parent=None).apply({"params": params}, x)
    return normed


def _visible(config: TileConfig, ratios_B: jax.Array, M: int) -> jax.Array:
    """[B, J·M, J·M]: padding does not see padding; all else sees, and is seen by, everything.

    So the released model has it: real patches do attend to padding.
    """
    counts_B = jnp.maximum(tile_counts(config, ratios_B), 1)
    real_BJ = jnp.arange(config.max_tiles) < counts_B[:, None]
    real_BJM = real_BJ[..., None] & (jnp.arange(M) < config.tokens)
    real_BT = real_BJM.reshape(len(ratios_B), -1)
    return real_BT[:, :, None] | real_BT[:, None, :]


def _local_layers(
    config: TileConfig, stack: Params, x_BTW: jax.Array, visible_BTT: jax.Array
) -> tuple[jax.Array, list[jax.Array]]:
    """x after the local layers, and the outputs of `read_layers`."""
    outputs = {}
    ends = sorted({layer + 1 for layer in config.read_layers} | {config.depth})
    for start, end in itertools.pairwise((0, *ends)):
        some = jax.tree.map(lambda leaf: leaf[start:end], stack)  # noqa: B023
        x_BTW = outputs[end - 1] = _scan(config, None, some, x_BTW, visible_BTT)
    return x_BTW, [outputs[layer] for layer in config.read_layers]


def _scan(
    config: TileConfig, gate: float | None, stack: Params, x_BTW: jax.Array, visible_BTT: jax.Array
) -> jax.Array:
    block = GatedBlock(config.blocks, gate, parent=None)

    def body(x_BTW: jax.Array, one: Params) -> tuple[jax.Array, None]:
        y_BTW: Any = block.apply({"params": one}, x_BTW, None, visible_BTT)
        return y_BTW, None

    return jax.lax.scan(body, x_BTW, stack)[0]
