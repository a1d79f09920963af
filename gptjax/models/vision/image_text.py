"""Decoders of text and images: patches as tokens (Llava), or by cross-attention (Flamingo).

Letters: `I` images of a sequence, `P` patches of an image, `S` the patches of all of them, `W` the
width of the vision transformer, `D` that of the decoder. Parameters are {"text", "vision", …}, so
that those of trained models can be put in their place. Experts are as outside of training.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import ops
from gptjax.errors import UserError
from gptjax.models import api
from gptjax.models.config import ModelConfig
from gptjax.models.layer_stack import run_blocks, stacks_of, unstacked
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.parameters import init_stacked
from gptjax.models.product import product
from gptjax.models.remat import recomputed
from gptjax.models.stages import Stages
from gptjax.models.vision import vit
from gptjax.models.vision.cross_attention import GatedBlock, interleave
from gptjax.models.vision.vit import VisionConfig

Params = Any  # nested dict of float32 arrays


@dataclasses.dataclass(frozen=True)
class ProjectedVision:
    """Projected patches stand in the text in place of image tokens (Liu et al., 2023, Llava).

    Attributes:
      text, vision: the two models.
      image_token: the token that one patch replaces; an image has `vision.patches` of them.
      feature_layer: the vision layer whose output is read, as in `encode_images`.
      projector_layers: matrices of the projection: 1 (Llava), or more with GELU between them, 2 in
        Llava-1.5.
    """

    text: ModelConfig
    vision: VisionConfig
    image_token: int
    feature_layer: int | None = -2
    projector_layers: int = 2


@dataclasses.dataclass(frozen=True)
class GatedVision:
    """Gated cross-attention to the patches before some layers (Alayrac et al., 2022, Flamingo).

    The paper has a Perceiver resampler between the two, which is not built: keys are all patches.
    Norms, feed-forward and biases of the new blocks are of the text model's kinds.

    Attributes:
      text, vision: the two models.
      image_token: one token for each image, at the image's place in the text.
      every: layers from one cross-attention to the next; the first has one.
    """

    text: ModelConfig
    vision: VisionConfig
    image_token: int
    every: int = 4


def init_projected(config: ProjectedVision, key: jax.Array) -> Params:
    """Fresh parameters {"text", "vision", "projector"}.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    if config.projector_layers < 1:
        raise UserError(f"projector_layers={config.projector_layers} must be at least 1")
    params, key = _init_both(config, key)
    D, widths = config.text.width, [config.vision.width]
    for _ in range(config.projector_layers):
        widths.append(D)
    keys = jax.random.split(key, config.projector_layers)
    shapes = zip(keys, widths[:-1], widths[1:], strict=True)
    params["projector"] = [
        {"kernel": jax.random.normal(key, (W, D)) * W**-0.5, "bias": jnp.zeros(D)}
        for key, W, D in shapes
    ]
    return params


def project_images(config: ProjectedVision, params: Params, images_BIYXC: jax.Array) -> jax.Array:
    """[B, I·P, D]: the vectors that replace the image tokens, patches row by row.

    Raises:
      UserError: where the images do not fit the config.
    """
    x_BSW = _features(config.vision, params["vision"], images_BIYXC, config.feature_layer)
    for number, matrix in enumerate(params["projector"]):
        x_BSW = product(ops.gelu(x_BSW) if number else x_BSW, matrix["kernel"], matrix["bias"])
    return x_BSW


def apply_projected(
    config: ProjectedVision,
    params: Params,
    tokens_BT: jax.Array,
    images_BIYXC: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
) -> jax.Array:
    """float32 logits [B, T, V] of the token that follows each position.

    The n-th image token of a sequence is replaced by its n-th patch, after the embedding's scale
    and before its positions; patches that are left over are not seen.

    Args:
      tokens_BT: token ids, with `vision.patches` image tokens for each image.
      images_BIYXC: the images of each sequence, in the order of the text.
      segment_ids_BT: document numbers; a token attends only within its own document.

    Raises:
      UserError: where images or image tokens do not fit. Under `jit` tokens are not known, and
        image tokens without an image give NaN.
    """
    text, P = config.text.at_rest, config.vision.patches
    _check_tokens(config, tokens_BT, each=P, most=images_BIYXC.shape[1])
    y_BSD = project_images(config, params, images_BIYXC)
    here_BT = tokens_BT == config.image_token
    patch_BT = jnp.cumsum(here_BT, axis=1) - 1
    y_BTD = jnp.take_along_axis(y_BSD, patch_BT[..., None], axis=1, mode="fill")
    pieces = Stages(text)
    x_BTD = pieces.embed(params["text"], tokens_BT, (here_BT, y_BTD))
    stacks = stacks_of(text, params["text"]["blocks"])
    x_BTD, _ = run_blocks(text, stacks, x_BTD, TokenInfo(segment_ids_BT))
    return pieces.logits(params["text"], x_BTD)


def init_gated(config: GatedVision, key: jax.Array) -> Params:
    """Fresh parameters {"text", "vision", "cross"}, the cross-attention stacked, its gates closed.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    if config.every < 1:
        raise UserError(f"every={config.every} must be at least 1")
    params, key = _init_both(config, key)
    count = -(-config.text.depth // config.every)
    x_BTD, memory_BSW = jnp.zeros((1, 1, config.text.width)), jnp.zeros((1, 1, config.vision.width))
    block, visible_BTS = GatedBlock(_cross(config), parent=None), jnp.ones((1, 1, 1), bool)
    params["cross"] = init_stacked(block, count, key, x_BTD, memory_BSW, visible_BTS)
    return params


def apply_gated(
    config: GatedVision, params: Params, tokens_BT: jax.Array, images_BIYXC: jax.Array
) -> jax.Array:
    """float32 logits [B, T, V] of the token that follows each position.

    In cross-attention a token sees the image of the last image token up to itself, and nothing
    where there is none (section 2.3 of the paper). Layers are unrolled.

    Args:
      tokens_BT: token ids, one image token for each image.
      images_BIYXC: the images of each sequence, in the order of the text.

    Raises:
      UserError: where images or image tokens do not fit. Under `jit` tokens are not known, and an
        image token without an image shows nothing.
    """
    text = config.text.at_rest
    _check_tokens(config, tokens_BT, each=1, most=images_BIYXC.shape[1])
    memory_BSW = _features(config.vision, params["vision"], images_BIYXC, None)
    number_BT = jnp.cumsum(tokens_BT == config.image_token, axis=1)
    number_S = 1 + jnp.arange(memory_BSW.shape[1]) // config.vision.patches
    visible_BTS = number_BT[..., None] == number_S
    pieces = Stages(text)
    apply = recomputed(text.remat, GatedBlock(_cross(config), parent=None).apply)

    def with_parameters(one: Params) -> Callable[[jax.Array], jax.Array]:
        return lambda x_BTD: apply({"params": one}, x_BTD, memory_BSW, visible_BTS)

    cross = [with_parameters(one) for one in unstacked(params["cross"])]
    x_BTD = pieces.embed(params["text"], tokens_BT)
    before = range(0, text.depth, config.every)
    x_BTD = interleave(text, params["text"]["blocks"], x_BTD, before, cross)
    return pieces.logits(params["text"], x_BTD)


def _cross(config: GatedVision) -> ModelConfig:
    """The settings of the cross-attention, whose queries and keys are not normed."""
    return dataclasses.replace(config.text.at_rest, qk_norm="none")


def _init_both(
    config: ProjectedVision | GatedVision, key: jax.Array
) -> tuple[dict[str, Any], jax.Array]:
    """Both models' parameters, and a key for what joins them."""
    if not 0 <= config.image_token < config.text.vocab_size:
        raise UserError(
            f"image_token={config.image_token} is no token of text.vocab_size="
            f"{config.text.vocab_size}; choose one of them, or enlarge the vocabulary"
        )
    text_key, vision_key, key = jax.random.split(key, 3)
    text = api.init(config.text, text_key)
    return {"text": text, "vision": vit.init_vision(config.vision, vision_key)}, key


def _features(
    config: VisionConfig, params: Params, images_BIYXC: jax.Array, layer: int | None
) -> jax.Array:
    """[B, I·P, W]: the patches of all images of a sequence, without class tokens."""
    if images_BIYXC.ndim != 5:
        raise UserError(
            f"images of shape {images_BIYXC.shape} do not tell sequences from their images; give "
            "[batch, images, rows, columns, channels]"
        )
    B, I, *pixels = images_BIYXC.shape
    x_bTW = vit.encode_images(config, params, images_BIYXC.reshape(-1, *pixels), layer=layer)
    return x_bTW[:, 1:].reshape(B, I * config.patches, config.width)


def _check_tokens(
    config: ProjectedVision | GatedVision, tokens_BT: jax.Array, *, each: int, most: int
) -> None:
    """The tokens' length, and their image tokens where their values are known."""
    api.check_length(config.text, tokens_BT.shape[1])
    if isinstance(tokens_BT, jax.core.Tracer):
        return
    counts = np.sum(np.asarray(tokens_BT) == config.image_token, axis=1)
    wrong = counts[(counts % each != 0) | (counts > each * most)]
    if wrong.size:
        raise UserError(
            f"a sequence has {wrong[0]} image tokens (image_token={config.image_token}) for "
            f"{most} images of {each} each; give {each} for each image that it shows"
        )
