"""Decoding from caches: the decoder's own modules, given the cached state of earlier tokens.

The layers are unrolled for every `model.layers`: a scan over them halves the speed of single
tokens on a CPU. `unstacked` gives each its own parameters once, before any loop over tokens.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.errors import UserError
from gptjax.models.api import between, instead
from gptjax.models.block import Block
from gptjax.models.config import Layer, ModelConfig
from gptjax.models.decoder import Embedding
from gptjax.models.layer_stack import by_layer, stacks_of
from gptjax.models.mixers.attention import Attention
from gptjax.models.mixers.cache import CACHE, KEPT, Decoding, Stream
from gptjax.models.mixers.mixer import Mixer, TokenInfo, mixer_of
from gptjax.models.parameters import activation_type
from gptjax.models.rope import depends_on_length
from gptjax.models.stages import Stages
from gptjax.models.vision.config import Seen

Params = Any  # nested dict of arrays, and of leaves that `product` knows


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Cache:
    """The cached state of all layers for a batch of texts, each row at a position of its own.

    Attributes:
      layers: of each layer the arrays of `Mixer.cache`, with the batch before their axes.
      tokens_B: int32, tokens of each row that the cache holds; the next has this position.
      seen: of the picture before each text (`models.see`); None: there is none.
    """

    layers: tuple[dict[str, jax.Array], ...]
    tokens_B: jax.Array
    seen: Seen | None = None


def init_cache(config: ModelConfig, batch: int, tokens: int, stream: Stream | None = None) -> Cache:
    """An empty cache for texts of up to so many tokens, or of any length with `stream`.

    Raises:
      UserError: where a layer cannot go on from a cache, or cannot forget tokens of one.
    """
    dtype = activation_type(config)
    layers = tuple(
        {name: one.zeros(batch, dtype) for name, one in kept.items()}
        for kept in (_kept(config, tokens) if stream is None else _streamed(config, stream))
    )
    return Cache(layers, jnp.zeros(batch, jnp.int32))


def cache_axes(config: ModelConfig) -> Cache:
    """For every array of a cache the tuple of its logical axis names."""
    layers = tuple(
        {name: ("batch", *one.axes) for name, one in kept.items()} for kept in _kept(config, 1)
    )
    return Cache(layers, ("batch",))  # type: ignore[arg-type]


def held_bytes(config: ModelConfig, tokens: int) -> int:
    """Bytes of one row of a cache for so many tokens, as `init_cache` allocates it."""
    one = jax.eval_shape(lambda: init_cache(config, 1, tokens).layers)
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(one))


def check_decodes(config: ModelConfig) -> None:
    """Refuse a model with layers that cannot go on from a cache."""
    for kind in dict.fromkeys(layer.mixer for layer in config.layers_of_depth):
        if mixer_of(config, kind).cache is None:
            raise UserError(
                f"model.layer_pattern has {kind} layers, which have no cache to decode from; score "
                "texts with models.apply, or give their Mixer a cache"
            )


def rewinds(config: ModelConfig) -> bool:
    """Whether a cache goes on from an earlier token when `tokens_B` says so."""
    return all(mixer_of(config, layer.mixer).rewinds for layer in config.layers_of_depth)


def unstacked(config: ModelConfig, params: Params) -> Params:
    """The same parameters with those of the blocks in a tuple, one entry for each layer."""
    if isinstance(params["blocks"], tuple):
        return params
    stacks = stacks_of(config, params["blocks"])
    return {**params, "blocks": tuple(by_layer(config.layers_of_depth, stacks))}


def rope_length(config: ModelConfig, tokens: int) -> int | None:
    """`tokens` where rotary positions depend on the length of the text; else None.

    Those models rotate every token as for a text that fills the cache; otherwise each further token
    would change all that is kept.
    """
    return tokens if config.positions == "rotary" and depends_on_length(config, tokens) else None


def decode(
    config: ModelConfig,
    params: Params,
    cache: Cache,
    tokens_BT: jax.Array,
    counts_BT: jax.Array | None = None,
    *,
    fresh: bool = False,
    length: int | None = None,
    shift_BTD: jax.Array | None = None,
    stream: Stream | None = None,
) -> tuple[jax.Array, Cache]:
    """(x_BTD after the last block, the cache after these tokens): `logits` gives the rest.

    Args:
      params: from `unstacked`, or as `models.init` makes them.
      tokens_BT: the next tokens of each row.
      counts_BT: bool, tokens that count; the others are padding, on either side or both, leave no
        trace and give meaningless rows. None: all count.
      fresh: the cache is as `init_cache` made it: the layers compute as in training.
      length: of `rope_length`.
      shift_BTD: where given, added to the embedded tokens.
      stream: of the cache; a longer text than it holds is read token by token.
    """
    if stream is not None and tokens_BT.shape[1] > 1:
        return _in_turn(config, params, cache, tokens_BT, counts_BT, stream)
    order_BT = None
    if counts_BT is None:
        counts_BT = jnp.ones(tokens_BT.shape, bool)
    elif tokens_BT.shape[1] > 1:
        order_BT = jnp.argsort(~counts_BT, axis=1, stable=True)
        tokens_BT, counts_BT = (
            jnp.take_along_axis(x, order_BT, axis=1) for x in (tokens_BT, counts_BT)
        )
        if shift_BTD is not None:
            shift_BTD = jnp.take_along_axis(shift_BTD, order_BT[..., None], axis=1)
    x_BTD, cache = _decode(
        config,
        params,
        cache,
        tokens_BT,
        counts_BT,
        fresh=fresh,
        length=length,
        shift=shift_BTD,
        stream=stream,
    )
    if order_BT is not None:
        back_BT = jnp.argsort(order_BT, axis=1)
        x_BTD = jnp.take_along_axis(x_BTD, back_BT[..., None], axis=1)
    return x_BTD, cache


def logits(config: ModelConfig, params: Params, x_BTD: jax.Array) -> jax.Array:
    """float32 logits [B, T, V] of the token after each, from what `decode` gave."""
    return Stages(config).logits(params, x_BTD)


def _decode(
    config: ModelConfig,
    params: Params,
    cache: Cache,
    tokens_BT: jax.Array,
    counts_BT: jax.Array,
    *,
    fresh: bool,
    length: int | None,
    shift: jax.Array | None,
    stream: Stream | None,
) -> tuple[jax.Array, Cache]:
    """`decode` where tokens that count come first in every row."""
    config, before_B = config.at_rest, cache.tokens_B
    positions_BT = before_B[:, None] + jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)
    positions_BT = jnp.where(counts_BT, positions_BT, -1)
    after_B = before_B + jnp.sum(counts_BT, axis=1, dtype=jnp.int32)
    info = TokenInfo(
        None, positions_BT, Decoding(before_B, after_B, fresh and stream is None, stream), length
    )
    embed: Any = Embedding(config, parent=None).apply
    seen = Seen() if cache.seen is None else cache.seen
    shown, blocks = instead(seen, positions_BT), {}
    if cache.seen is not None:
        blocks = between(config, params, seen)
    x_BTD, _ = embed({"params": params["embed"]}, tokens_BT, shown, jnp.maximum(positions_BT, 0))
    if shift is not None:
        x_BTD = x_BTD + shift.astype(x_BTD.dtype)
    own, layers = unstacked(config, params)["blocks"], []
    each = zip(config.layers_of_depth, own, cache.layers, strict=True)
    for number, (layer, one, kept) in enumerate(each):
        if number in blocks:
            x_BTD = blocks[number](x_BTD)
        x_BTD, after = _block(config, layer, one, kept, x_BTD, info)
        layers.append(after)
    return x_BTD, Cache(tuple(layers), after_B, cache.seen)


def _in_turn(
    config: ModelConfig,
    params: Params,
    cache: Cache,
    tokens_BT: Any,
    counts_BT: Any,
    stream: Stream,
) -> tuple[jax.Array, Cache]:
    """`decode` with a cache that forgets: what a token sees depends on when it came."""
    params = unstacked(config, params)
    counts_BT = jnp.ones(tokens_BT.shape, bool) if counts_BT is None else counts_BT

    def one(cache: Cache, token: tuple[jax.Array, jax.Array]) -> tuple[Cache, jax.Array]:
        ids_B, counts_B = token
        x_B1D, cache = decode(
            config, params, cache, ids_B[:, None], counts_B[:, None], stream=stream
        )
        return cache, x_B1D[:, 0]

    cache, x_TBD = jax.lax.scan(one, cache, (tokens_BT.T, counts_BT.T))
    return jnp.swapaxes(x_TBD, 0, 1), cache


def _streamed(config: ModelConfig, stream: Stream) -> list[dict[str, Any]]:
    """What each layer keeps of the first and of the last tokens."""
    for layer in config.layers_of_depth:
        mixer = mixer_of(config, layer.mixer)
        relative = config.positions in ("rotary", "alibi", "none")
        if layer.mixer != "global" or not issubclass(mixer.module, Attention) or not relative:
            raise UserError(
                f"streaming forgets tokens of global layers with relative positions, and this "
                f"model has {layer.mixer} layers with model.positions={config.positions}; generate "
                "within its context"
            )
    kept = stream.kept(config.kv_heads, config.head_width)
    return [kept for _ in config.layers_of_depth]


def _block(
    config: ModelConfig, layer: Layer, params: Params, kept: Any, x_BTD: jax.Array, info: TokenInfo
) -> tuple[jax.Array, dict[str, jax.Array]]:
    variables = {"params": params, CACHE: {layer.mixer_name: {KEPT: kept}}}
    (x_BTD, _), found = Block(config, layer, parent=None).apply(
        variables, x_BTD, info, mutable=[CACHE]
    )
    after: dict[str, jax.Array] = found[CACHE][layer.mixer_name][KEPT]
    return x_BTD, after


def _kept(config: ModelConfig, tokens: int) -> list[dict[str, Any]]:
    check_decodes(config)
    mixers: list[Mixer] = [mixer_of(config, layer.mixer) for layer in config.layers_of_depth]
    return [mixer.cache(config, tokens) for mixer in mixers if mixer.cache is not None]
