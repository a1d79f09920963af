"""Llama 3.2 Vision: a decoder with cross-attention to the tiles of images.

Letters: `I` images of a sequence, `J` tiles of an image, `Q` tokens of a tile, `S` the tokens of
all of them, `U` the width of the features, `D` that of the decoder.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.errors import UserError
from gptjax.models.api import ParamCount
from gptjax.models.product import product
from gptjax.models.vision.cross_attention import (
    CrossText,
    apply_cross_text,
    count_cross_text,
    init_cross_text,
)
from gptjax.models.vision.tile_encoder import (
    TileConfig,
    count_tiles,
    encode_tiles,
    init_tiles,
    tile_counts,
)

Params = Any  # nested dict of float32 arrays


@dataclasses.dataclass(frozen=True)
class TiledVision:
    """Cross-attention layers among a decoder's own attend to the tiles of images.

    Attributes:
      language, vision: the two models, joined by one matrix with biases.
      image_token: one token for each image, at the image's place in the text.
    """

    language: CrossText
    vision: TileConfig
    image_token: int


def init_tiled(config: TiledVision, key: jax.Array) -> Params:
    """Fresh parameters {"language", "vision", "projector"}; the language model's gates are closed.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    _check_image_token(config)
    language_key, vision_key, key = jax.random.split(key, 3)
    U, D = config.vision.feature_width, config.language.text.width
    return {
        "language": init_cross_text(config.language, language_key),
        "vision": init_tiles(config.vision, vision_key),
        "projector": {"kernel": jax.random.normal(key, (U, D)) * U**-0.5, "bias": jnp.zeros(D)},
    }


def apply_tiled(
    config: TiledVision,
    params: Params,
    tokens_BT: jax.Array,
    tiles_BIJYXC: jax.Array,
    ratios_BI: jax.Array,
) -> jax.Array:
    """float32 logits [B, T, V] of the token that follows each position.

    A token sees the tiles of the image of the last image token up to itself; images whose tokens
    follow each other are seen together.

    Args:
      tokens_BT: token ids, one image token for each image.
      tiles_BIJYXC: the images of each sequence in the order of the text, each as its tiles row by
        row, padded to `max_tiles`.
      ratios_BI: the number of each image's ratio in `vision.ratios`, from 1 on; 0: no image.

    Raises:
      UserError: where images, tiles or image tokens do not fit. Under `jit` tokens are not known,
        and an image token without an image shows nothing.
    """
    _check_tokens(config, tokens_BT, ratios_BI)
    memory_BSD = project_tiles(config, params, tiles_BIJYXC, ratios_BI)
    visible_BTS = _visible(config, tokens_BT, ratios_BI)
    return apply_cross_text(config.language, params["language"], tokens_BT, memory_BSD, visible_BTS)


def project_tiles(
    config: TiledVision, params: Params, tiles_BIJYXC: jax.Array, ratios_BI: jax.Array
) -> jax.Array:
    """[B, I·J·Q, D]: the vectors that the decoder attends to, the tiles of all images in order.

    Raises:
      UserError: where the tiles do not fit the config.
    """
    if tiles_BIJYXC.ndim != 6 or tiles_BIJYXC.shape[:2] != ratios_BI.shape:
        raise UserError(
            f"tiles of shape {tiles_BIJYXC.shape} do not fit ratios of shape {ratios_BI.shape}; "
            "give [batch, images, tiles, rows, columns, channels] and [batch, images]"
        )
    B, I, *tiles = tiles_BIJYXC.shape
    x_bJQU = encode_tiles(
        config.vision, params["vision"], tiles_BIJYXC.reshape(B * I, *tiles), ratios_BI.reshape(-1)
    )
    projector = params["projector"]
    x_bJQD = product(x_bJQU, projector["kernel"], projector["bias"])
    return x_bJQD.reshape(B, -1, config.language.text.width)


def count_tiled(config: TiledVision) -> ParamCount:
    """Exact counts, from the settings alone; the vision tower's count as no embedding.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    _check_image_token(config)
    count = count_cross_text(config.language)
    U, D = config.vision.feature_width, config.language.text.width
    vision = count_tiles(config.vision) + (U + 1) * D
    return ParamCount(
        count.total + vision,
        count.non_embedding + vision,
        count.non_embedding_with_head + vision,
    )


def _visible(config: TiledVision, tokens_BT: jax.Array, ratios_BI: jax.Array) -> jax.Array:
    """[B, T, I·J·Q]: which tokens of which tiles a token sees."""
    shown_BTI = images_shown(jnp.asarray(tokens_BT) == config.image_token, ratios_BI.shape[1])
    counts_BI = tile_counts(config.vision, ratios_BI)
    real_BIJ = jnp.arange(config.vision.max_tiles) < counts_BI[..., None]
    visible_BTIJ = shown_BTI[..., None] & real_BIJ[:, None]
    visible_BTL = visible_BTIJ.reshape(*visible_BTIJ.shape[:2], -1)
    return jnp.repeat(visible_BTL, config.vision.tokens, axis=2)


def images_shown(here_BT: jax.Array, images: int) -> jax.Array:
    """[B, T, I]: whether a token sees an image, given where the image tokens are.

    It sees the image of the last image token up to itself, and of those that stand just before
    that one without a word between.

    >>> images_shown(jnp.array([[False, True, True, False, True]]), 3)[0].astype(int).tolist()
    [[0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 1]]
    """
    first_BT = here_BT & ~jnp.pad(here_BT, ((0, 0), (1, 0)))[:, :-1]
    group_BT, number_BT = jnp.cumsum(first_BT, axis=1), jnp.cumsum(here_BT, axis=1)
    begun_BTI = number_BT[..., None] > jnp.arange(images)
    is_it_BTI = here_BT[..., None] & (number_BT[..., None] == 1 + jnp.arange(images))
    group_BI = jnp.max(jnp.where(is_it_BTI, group_BT[..., None], 0), axis=1)
    return begun_BTI & (group_BT[..., None] == group_BI[:, None])


def _check_image_token(config: TiledVision) -> None:
    count = config.language.text.vocab_size + config.language.extra_tokens
    if not 0 <= config.image_token < count:
        raise UserError(
            f"image_token={config.image_token} is none of the {count} tokens; choose one of them, "
            "or give extra_tokens"
        )


def _check_tokens(config: TiledVision, tokens_BT: jax.Array, ratios_BI: jax.Array) -> None:
    """Tokens and ratios, where their values are known."""
    if isinstance(tokens_BT, jax.core.Tracer) or isinstance(ratios_BI, jax.core.Tracer):
        return
    most, ratios = len(config.vision.ratios), np.asarray(ratios_BI)
    if np.any((ratios < 0) | (ratios > most)):
        raise UserError(f"a ratio of {ratios.max()} is not one of the {most}; choose 0 to {most}")
    counts = np.sum(np.asarray(tokens_BT) == config.image_token, axis=1)
    images = np.sum(ratios > 0, axis=1)
    wrong = np.flatnonzero(counts != images)
    if wrong.size:
        row = wrong[0]
        raise UserError(
            f"a sequence has {counts[row]} image tokens (image_token={config.image_token}) for "
            f"{images[row]} images; give one for each image"
        )
