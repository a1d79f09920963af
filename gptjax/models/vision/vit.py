"""Vision transformer (ViT, CLIP): images to a class token and a vector for each patch.

Letters: images are `YXC` (rows, columns, channels), `P` patches, `W` the width, `L` numbers of one
patch. Its blocks are the decoder's, with attention that sees both ways.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError, nearest
from gptjax.models.block import Block
from gptjax.models.config import ModelConfig
from gptjax.models.layer_stack import run_blocks, stacks_of
from gptjax.models.mixers.attention import BOTH_WAYS
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.norms import Norm
from gptjax.models.parameters import activation_type, init_stacked
from gptjax.models.product import product

Params = Any  # nested dict of float32 arrays


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """A vision transformer; the defaults are ViT-B/16 (Dosovitskiy et al., 2021, table 1).

    CLIP's (Radford et al., 2021) has first_norm, no patch_bias and mlp="quick_gelu"; what it calls
    the pooled output is the normed class token.

    Attributes:
      image_size, patch_size: sides of the square images and patches, in pixels.
      channels: of a pixel.
      mlp_width: hidden width of the feed-forward; 0: 4 x width.
      mlp: its kind, as in `ModelConfig.mlp`.
      patch_bias: whether the patches' matrix has a bias.
      first_norm: a norm after the positions, before the blocks.
      pooler: tanh of a matrix on the normed class token, as in `transformers`' ViTModel.
      num_classes: outputs of the head on the class token; 0: there is no head.
      norm_eps: added to the variance; `transformers` writes 1e-12 for the same weights.
      compute_dtype: type of activations and products.
    """

    image_size: int = 224
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 0
    mlp: str = "gelu"
    patch_bias: bool = True
    first_norm: bool = False
    pooler: bool = False
    num_classes: int = 0
    norm_eps: float = 1e-6
    init_scale: float = 0.02
    compute_dtype: str = "float32"

    @property
    def patches(self) -> int:
        """Patches of an image."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def blocks(self) -> ModelConfig:
        """The blocks, as the decoder's settings have them."""
        return ModelConfig(
            depth=self.depth,
            width=self.width,
            num_heads=self.num_heads,
            mlp_width=self.mlp_width,
            norm_eps=self.norm_eps,
            init_scale=self.init_scale,
            compute_dtype=self.compute_dtype,
            mlp=self.mlp,
            positions="none",
            layer_pattern=(BOTH_WAYS,),
            seq_len=1 + self.patches,
        )


def validate_vision(config: VisionConfig) -> None:
    """Check the fields against each other.

    Raises:
      UserError: naming the field, its value and the repair.
    """
    least = {"patch_size": 1, "channels": 1, "depth": 1, "num_heads": 1, "num_classes": 0}
    for name, minimum in least.items():
        if getattr(config, name) < minimum:
            raise UserError(f"{name}={getattr(config, name)} must be at least {minimum}")
    if config.mlp not in ops.FEED_FORWARD:
        raise UserError(f"mlp={config.mlp!r} is not known; {nearest(config.mlp, ops.FEED_FORWARD)}")
    check_multiples(config)


def check_multiples(config: Any) -> None:
    """Refuse a tower whose images are no whole patches, or whose width is no whole heads."""
    for name, part in (("image_size", "patch_size"), ("width", "num_heads")):
        whole, each = getattr(config, name), getattr(config, part)
        if whole < each or whole % each:
            near = max(1, round(whole / each)) * each
            raise UserError(f"{name}={whole} is not a multiple of {part}={each}; try {name}={near}")


def init_vision(config: VisionConfig, key: jax.Array) -> Params:
    """Fresh parameters: a nested dict of float32 arrays, blocks stacked on a leading axis.

    The patches' matrix keeps the size of its inputs, the class token and the biases are zero, all
    other matrices are normal with the config's scale.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate_vision(config)
    blocks, W = config.blocks, config.width
    L = config.channels * config.patch_size**2
    patch_key, position_key, blocks_key, head_key = jax.random.split(key, 4)
    x_BTW = jnp.zeros((1, 1, W))
    block = Block(blocks, blocks.layers_of_depth[0], parent=None)
    params = {
        "patch": jax.random.normal(patch_key, (L, W)) * L**-0.5,
        "class_token": jnp.zeros(W),
        "positions": jax.random.normal(position_key, (blocks.seq_len, W)) * config.init_scale,
        "blocks": init_stacked(block, config.depth, blocks_key, x_BTW, TokenInfo()),
        "final_norm": {"scale": jnp.ones(W), "bias": jnp.zeros(W)},
    }
    if config.patch_bias:
        params["patch_bias"] = jnp.zeros(W)
    if config.first_norm:
        params["first_norm"] = {"scale": jnp.ones(W), "bias": jnp.zeros(W)}
    if config.pooler:
        pooler_key = jax.random.fold_in(head_key, 1)
        params["pooler"] = jax.random.normal(pooler_key, (W, W)) * config.init_scale
        params["pooler_bias"] = jnp.zeros(W)
    if config.num_classes:
        shape = (W, config.num_classes)
        params["head"] = jax.random.normal(head_key, shape) * config.init_scale
        params["head_bias"] = jnp.zeros(config.num_classes)
    return params


def encode_images(
    config: VisionConfig, params: Params, images_BYXC: jax.Array, *, layer: int | None = None
) -> jax.Array:
    """x_BTW of the class token and then the patches, row by row: T = 1 + P.

    z₀ = [class; patches·E] + positions, z′ = z + attention(norm(z)), z = z′ + mlp(norm(z′))
    (Dosovitskiy et al., 2021, equations 1-4).

    Args:
      images_BYXC: as the weights expect them, commonly scaled to −1…1.
      layer: after this many blocks and without the final norm; negative numbers count from the
        end, −1 the last block's output, −2 the one before; by default after all and normed.

    Raises:
      UserError: where images or the layer do not fit the config.
    """
    blocks = config.blocks
    size, patch, channels = config.image_size, config.patch_size, config.channels
    x_BPL = cut_patches(images_BYXC, size=size, patch=patch, channels=channels)
    x_BPL = x_BPL.astype(activation_type(blocks))
    x_BPW = product(x_BPL, params["patch"], params.get("patch_bias"))
    class_W = params["class_token"].astype(x_BPW.dtype)
    class_B1W = jnp.broadcast_to(class_W, (x_BPW.shape[0], 1, config.width))
    x_BTW = jnp.concatenate([class_B1W, x_BPW], axis=1) + params["positions"].astype(x_BPW.dtype)
    if config.first_norm:
        x_BTW = _norm(blocks, params["first_norm"], x_BTW)
    depth = config.depth if layer is None else _blocks_before(config, layer)
    blocks = dataclasses.replace(blocks, depth=depth)
    some = jax.tree.map(lambda leaf: leaf[:depth], params["blocks"])
    if depth:
        x_BTW, _ = run_blocks(blocks, stacks_of(blocks, some), x_BTW, TokenInfo())
    if layer is not None:
        return x_BTW
    return _norm(blocks, params["final_norm"], x_BTW)


def pool_images(config: VisionConfig, params: Params, images_BYXC: jax.Array) -> jax.Array:
    """x_BW for each image: the normed class token, through the pooler where there is one.

    Raises:
      UserError: where images do not fit the config.
    """
    x_BW = encode_images(config, params, images_BYXC)[:, 0]
    if not config.pooler:
        return x_BW
    return jnp.tanh(product(x_BW, params["pooler"], params["pooler_bias"]))


def classify_images(config: VisionConfig, params: Params, images_BYXC: jax.Array) -> jax.Array:
    """float32 logits [B, num_classes]: the head on the normed class token.

    Raises:
      UserError: where there is no head, or images do not fit the config.
    """
    if not config.num_classes:
        raise UserError("num_classes=0 leaves the vision transformer without a head; set it")
    x_BTW = encode_images(config, params, images_BYXC)
    return product(x_BTW[:, 0], params["head"], params["head_bias"], dtype=jnp.float32)


def _norm(blocks: ModelConfig, params: Params, x_BTW: jax.Array) -> jax.Array:
    normed: Any = Norm(blocks, parent=None).apply({"params": params}, x_BTW)
    return normed


def cut_patches(images_BYXC: jax.Array, *, size: int, patch: int, channels: int) -> jax.Array:
    """Patches row by row, each as the numbers of its pixels row by row, channels last.

    Raises:
      UserError: where the images have another size.
    """
    wanted = (size, size, channels)
    if images_BYXC.ndim != 4 or images_BYXC.shape[1:] != wanted:
        raise UserError(
            f"images of shape {images_BYXC.shape} do not fit image_size={size} and channels="
            f"{channels}; give [batch, {size}, {size}, {channels}]"
        )
    n = size // patch
    x_BnpnpC = jnp.asarray(images_BYXC).reshape(-1, n, patch, n, patch, channels)
    return jnp.swapaxes(x_BnpnpC, 2, 3).reshape(-1, n * n, patch * patch * channels)


def _blocks_before(config: VisionConfig, layer: int) -> int:
    depth = config.depth
    if not -depth - 1 <= layer <= depth:
        raise UserError(f"layer={layer} is not one of the {depth}; choose 0 to {depth}, or -1")
    return layer if layer >= 0 else depth + 1 + layer
