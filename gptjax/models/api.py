"""The interface of models: pure functions from config and parameters to arrays."""

import dataclasses
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.errors import UserError
from gptjax.models.config import FAMILIES, ModelConfig, ModelFamily
from gptjax.models.decoder import Decoder
from gptjax.models.experts import Routing
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.param_count import sizes
from gptjax.models.validate import validate
from gptjax.models.vision.config import JOINS, Seen

Params = Any  # nested dict of float32 arrays

FAMILIES["decoder"] = ModelFamily(Decoder, sizes)


@dataclasses.dataclass(frozen=True)
class ParamCount:
    """Parameters counted the three ways that the scaling literature uses.

    Attributes:
      total: every parameter, a tied head once.
      non_embedding: without token embedding, learned positions and head (Kaplan et al., 2020).
      non_embedding_with_head: the former plus the head's matrix, tied or not: what multiplies.
    """

    total: int
    non_embedding: int
    non_embedding_with_head: int


def init(config: ModelConfig, key: jax.Array) -> Params:
    """Fresh parameters: a nested dict of float32 arrays, blocks stacked on a leading axis.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate(config)
    return nn.unbox(_boxed(config, key))


def apply(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    shift_BTD: jax.Array | None = None,
    pictures_BYXC: jax.Array | None = None,
) -> jax.Array:
    """float32 logits [B, T, V] of the token that follows each position, outside of training.

    Args:
      tokens_BT: token ids, T at most config.seq_len where positions are learned.
      segment_ids_BT: document numbers; a token attends only within its own document.
      positions_BT: where each token is in its text, for packed and padded batches; None: 0…T−1.
      shift_BTD: where given, added to the embedded tokens.
      pictures_BYXC: the picture before each text, uint8 or scaled to −1…1, for `model.vision`; its
        `picture_places` are the first of the tokens, whose ids are not read.

    Raises:
      UserError: where the input is longer than the positions that the model learns.
    """
    return forward(
        config.at_rest,
        params,
        tokens_BT,
        segment_ids_BT=segment_ids_BT,
        positions_BT=positions_BT,
        shift_BTD=shift_BTD,
        pictures_BYXC=pictures_BYXC,
    )[0]


def features(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    shift_BTD: jax.Array | None = None,
    pictures_BYXC: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """(x_BTD, w_DV), the head's input and matrix: their product is the logits before scale and cap.

    For losses that do not build the logits; arguments and errors are those of `apply`.
    """
    return forward(
        config.at_rest,
        params,
        tokens_BT,
        segment_ids_BT=segment_ids_BT,
        positions_BT=positions_BT,
        shift_BTD=shift_BTD,
        pictures_BYXC=pictures_BYXC,
        features=True,
    )[0]


def forward(
    config: ModelConfig,
    params: Params,
    tokens_BT: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    positions_BT: jax.Array | None = None,
    shift_BTD: jax.Array | None = None,
    seeds_B: jax.Array | None = None,
    pictures_BYXC: jax.Array | None = None,
    features: bool = False,
) -> tuple[Any, Routing | None]:
    """The logits of `apply`, or the features, as in training; and the routers' statistics, if any.

    Experts have the capacity of the config, and their routers its noise; dropout is that of the
    config. Other arguments and errors
    are those of `apply`.

    Args:
      seeds_B: uint32, one for each sequence, of noise and dropout; without them there is none.
    """
    check_length(config, tokens_BT.shape[1])
    if features and config.softmaxes > 1:
        raise UserError(
            f"model.softmaxes={config.softmaxes} has no single matrix of logits, which chunked "
            "losses, preferences and rewards read; set train.loss_chunk=0, or model.softmaxes=1"
        )
    inputs = tokens_BT, TokenInfo(segment_ids_BT, positions_BT), shift_BTD, seeds_B
    shown: dict[str, Any] = {}
    if pictures_BYXC is not None:
        seen = see(config, params, pictures_BYXC)
        here_T = jnp.arange(tokens_BT.shape[1]) if positions_BT is None else positions_BT
        places_BT = jnp.broadcast_to(here_T, tokens_BT.shape)
        shown = {"instead": instead(seen, places_BT), "between": between(config, params, seen)}
    found: Any = _module(config).apply({"params": params}, *inputs, features=features, **shown)
    return found


def see(config: ModelConfig, params: Params, pictures_BYXC: jax.Array) -> Seen:
    """What texts see of the picture before each of them: for `forward`, and for a decoder's cache.

    Raises:
      UserError: where pictures are of another size than `model.vision` says.
    """
    return JOINS[config.vision.join].see(config, params.get("vision"), pictures_BYXC)


def instead(seen: Seen, places_BT: jax.Array) -> tuple[jax.Array, jax.Array] | None:
    """(here_BT, x_BTD): a picture's vectors in the place of a text's first tokens.

    Args:
      places_BT: where each token is in its text; negative: nowhere.
    """
    if seen.vectors_BPD is None:
        return None
    P = seen.vectors_BPD.shape[1]
    at_BT1 = jnp.clip(places_BT, 0, P - 1)[..., None]
    y_BTD = jnp.take_along_axis(seen.vectors_BPD, at_BT1, axis=1)
    return (places_BT >= 0) & (places_BT < P), y_BTD


def between(config: ModelConfig, params: Params, seen: Seen) -> Any:
    """The cross-attention blocks, by the layers that they come before."""
    return JOINS[config.vision.join].between(config, params.get("vision"), seen)


def picture_places(config: ModelConfig) -> int:
    """Positions at the beginning of a text that its picture takes."""
    return JOINS[config.vision.join].places(config)


def check_length(config: ModelConfig, T: int) -> None:
    """Refuse an input that is longer than the positions that the model learns."""
    if config.positions == "learned" and config.seq_len < T:
        raise UserError(
            f"model.seq_len={config.seq_len} has no position for an input of {T} tokens; "
            f"set model.seq_len={T}, or positions=rotary"
        )


@functools.lru_cache(maxsize=4096)
def count_params(config: ModelConfig) -> ParamCount:
    """Exact counts, without allocating anything.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate(config)
    embedding, inside = FAMILIES[config.family].sizes(config)
    head = config.width * config.vocab_size
    total = embedding + inside + (0 if config.tied_head else head)
    return ParamCount(total, inside, inside + head)


def count_active_params(config: ModelConfig) -> ParamCount:
    """The same, counting of each mixture only the experts that one token passes.

    Raises:
      UserError: where the config's fields contradict each other.
    """
    validate(config)
    sizes_of = FAMILIES[config.family].sizes
    total, active = (sizes_of(config, active=only)[1] for only in (False, True))
    count, idle = count_params(config), total - active
    return ParamCount(
        count.total - idle, count.non_embedding - idle, count.non_embedding_with_head - idle
    )


def logical_axes(config: ModelConfig) -> Any:
    """For every parameter the tuple of its logical axis names, in `init`'s tree."""
    validate(config)
    return jax.tree.map(
        lambda box: tuple(box.names),
        _shapes(config),
        is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
    )


def _module(config: ModelConfig) -> nn.Module:
    return FAMILIES[config.family].module(config)


def _boxed(config: ModelConfig, key: jax.Array) -> Any:
    params: Any = _module(config).init(key, jnp.zeros((1, 1), jnp.int32))["params"]
    if not config.vision.join:
        return params
    vision = JOINS[config.vision.join].init(config, jax.random.fold_in(key, 1))

    def whole(leaf: jax.Array) -> Any:
        """Held by every device: a tower is small beside its decoder."""
        return nn.LogicallyPartitioned(leaf, (None,) * leaf.ndim)

    return {**params, "vision": jax.tree.map(whole, vision)}


@functools.lru_cache(maxsize=256)  # counts, axes and layouts ask for the same ones
def _shapes(config: ModelConfig) -> Any:
    return jax.eval_shape(functools.partial(_boxed, config), jax.random.key(0))
