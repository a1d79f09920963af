"""Attention by heads: over all earlier tokens, the last ones of a window, or both ways."""

import dataclasses
import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.mixers import kernels
from gptjax.models.mixers.cache import Kept, keep, kept, ring
from gptjax.models.mixers.latent import LATENT, LATENT_LOCAL
from gptjax.models.mixers.mixer import ENCODERS, Mixer, TokenInfo, mixer_named, register
from gptjax.models.norms import norm_scale, normed
from gptjax.models.parameters import (
    bias_at,
    hidden_init,
    initializer,
    parameter,
    residual_init,
    weight,
)
from gptjax.models.product import product
from gptjax.models.rope import rotate

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig

BOTH_WAYS = "both_ways"
"""Attention without a mask, of encoders: no element of a decoder's layer pattern."""

BLOCK = 256
"""Keys whose scores are held at a time where attention goes through blocks or a fused kernel."""


class Attention(nn.Module):
    """Projections to heads, rotary positions, attention, projection back.

    Kinds that differ in a part override it: `keys`, `own_arrays`, `attend`, and with a cache `fill`
    and `attend_cached`, or only `sees`.

    Attributes:
      kind: an element of the config's layer pattern.
    """

    config: "ModelConfig"
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: TokenInfo) -> jax.Array:
        cfg = self.config
        N, K = cfg.num_heads, cfg.kv_heads
        q_BTNH = self.heads(x_BTD, "query", N, "heads")
        k_BTKH = self.keys(x_BTD, q_BTNH)
        v_BTKH = self.heads(x_BTD, "value", K, "kv_heads")
        q_BTNH = self._head_norm(q_BTNH, "query_norm_scale", "heads")
        k_BTKH = self._head_norm(k_BTKH, "key_norm_scale", "kv_heads")
        streams = info.decoding is not None and info.decoding.stream is not None
        if not streams:
            q_BTNH, k_BTKH = self.rotated(q_BTNH, info), self.rotated(k_BTKH, info)
        arrays = self._common_arrays() | self.own_arrays(x_BTD, info)
        options = {**arrays, **kernels.options(cfg), "segment_ids_BT": info.segment_ids_BT}
        if info.seeds_B is not None:
            options |= {"dropout": cfg.dropout.attention, "seeds_B": info.seeds_B}
        if info.decoding is None:
            o_BTNH = self.attend(q_BTNH, k_BTKH, v_BTKH, options)
        elif info.decoding.fresh:
            o_BTNH = self.attend(q_BTNH, k_BTKH, v_BTKH, options)
            keep(self, self.fill(kept(self), q_BTNH, k_BTKH, v_BTKH, info, arrays))
        elif streams:
            o_BTNH, cache = self.attend_stream(kept(self), q_BTNH, k_BTKH, v_BTKH, info, arrays)
            keep(self, cache)
        else:
            o_BTNH, cache = self.attend_cached(kept(self), q_BTNH, k_BTKH, v_BTKH, info, arrays)
            keep(self, cache)
        o_BTNH = nn.with_logical_constraint(o_BTNH, ("batch", "seq", "heads", None))
        if cfg.attention_gate:
            o_BTNH = o_BTNH * jax.nn.sigmoid(self.heads(x_BTD, "gate", N, "heads"))
        return self.out(o_BTNH)

    def keys(self, x_BTD: jax.Array, q_BTNH: jax.Array) -> jax.Array:
        """k_BTKH, before norm and rotation."""
        return self.heads(x_BTD, "key", self.config.kv_heads, "kv_heads")

    def own_arrays(self, x_BTD: jax.Array, info: TokenInfo) -> dict[str, Any]:
        """Arrays that only this kind of attention has, by the names of `attend`'s options."""
        return {}

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """o_BTNH of rotated queries, keys and values, by the config's kernel.

        Args:
          options: keyword arguments of the operation.
        """
        window = {"window": self.config.window} if self.kind == "local" else {}
        return kernels.attend(self.config, self.kind, q, k, v, {**options, **window})

    def fill(
        self,
        cache: dict[str, jax.Array],
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> dict[str, jax.Array]:
        """An empty cache after the first tokens of a text."""
        assert info.decoding is not None
        after_B = info.decoding.after_B
        return cache | {
            "k": ops.fill_ring(cache["k"], k, after_B),
            "v": ops.fill_ring(cache["v"], v, after_B),
        }

    def attend_cached(
        self,
        cache: dict[str, jax.Array],
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(o_BTNH of further tokens of a text, the cache after them)."""
        assert info.decoding is not None and info.positions_BT is not None
        positions_BT, decoding = info.positions_BT, info.decoding
        slots = cache["k"].shape[2]
        after = cache | {
            name: ops.write_ring(cache[name], x, positions_BT) for name, x in (("k", k), ("v", v))
        }
        seen, places_BS = after, ops.ring_positions(decoding.after_B, slots)
        if self.rolls and q.shape[1] > 1:
            # The first of these tokens still see the keys that the last of them overwrite.
            seen = {
                name: jnp.concatenate([cache[name], jnp.moveaxis(x, 1, 2)], axis=2)
                for name, x in (("k", k), ("v", v))
            }
            before_BS = ops.ring_positions(decoding.before_B, slots)
            places_BS = jnp.concatenate([before_BS, positions_BT], axis=1)
        options = {**arrays, **kernels.options(self.config), "sees": self.sees()}
        o_BTNH = ops.cached_attention(q, seen["k"], seen["v"], positions_BT, places_BS, **options)
        return o_BTNH, after

    def attend_stream(
        self,
        cache: dict[str, jax.Array],
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """(o_B1NH of one further token, the cache after it), of the first and last tokens alone.

        Keys are kept before their rotation and rotated by their place inside the cache, as
        streaming-llm does: text that was forgotten leaves no gap.
        """
        assert info.decoding is not None and info.decoding.stream is not None
        assert info.positions_BT is not None and q.shape[1] == 1
        position_B1, stream = info.positions_BT, info.decoding.stream
        first, last = stream.first, stream.last
        after: dict[str, jax.Array] = {}
        # The ring counts from the end of the sinks.
        sink_B1 = jnp.where(position_B1 < first, position_B1, -1)
        recent_B1 = jnp.where(position_B1 >= first, position_B1 - first, -1)
        for name, x in (("k", k), ("v", v)):
            kept_first = ops.write_ring(cache[f"first_{name}"], x, sink_B1)
            after |= {f"first_{name}": kept_first, name: ops.write_ring(cache[name], x, recent_B1)}
        total_B = position_B1[:, 0] + 1
        ring_BS = ops.ring_positions(jnp.maximum(total_B - first, 0), last)
        gone_B1 = jnp.maximum(total_B - first - last, 0)[:, None]
        ring_BS = jnp.where(ring_BS >= 0, ring_BS + first - gone_B1, -1)
        sinks_BS = jnp.broadcast_to(jnp.arange(first), (ring_BS.shape[0], first))
        places_BS = jnp.concatenate([sinks_BS, ring_BS], axis=1)
        keys_BSKH = jnp.moveaxis(jnp.concatenate([after["first_k"], after["k"]], axis=2), 1, 2)
        turned = self.rotated(keys_BSKH, dataclasses.replace(info, positions_BT=places_BS))
        place_B1 = jnp.where(position_B1 >= 0, position_B1 - gone_B1, -1)
        q = self.rotated(q, dataclasses.replace(info, positions_BT=place_B1))
        o_B1NH = ops.cached_attention(
            q,
            jnp.moveaxis(turned, 2, 1),
            jnp.concatenate([after["first_v"], after["v"]], axis=2),
            place_B1,
            places_BS,
            **arrays,
            **kernels.options(self.config),
        )
        return o_B1NH, after

    @property
    def rolls(self) -> bool:
        """Whether its cache may have fewer slots than the text has tokens."""
        return mixer_named(self.kind).windowed

    def sees(self) -> ops.Sees | None:
        """Which earlier tokens a token sees, by their positions (`ops.cached_attention`)."""
        if self.kind != "local":
            return None
        return lambda i, j: i - j < self.config.window

    def rotated(self, x_BTNH: jax.Array, info: TokenInfo) -> jax.Array:
        """With rotary positions, where the config has them."""
        if self.config.positions != "rotary":
            return x_BTNH
        return rotate(self.config, x_BTNH, info.positions_BT, info.length)

    def heads(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        """A projection to heads with the parameters `name` and `name`_bias."""
        cfg = self.config
        D, H = x_BTD.shape[-1], cfg.head_width
        axes = ("embed", axis, "head_dim")
        w_DNH = weight(self, name, (D, heads, H), axes, hidden_init(cfg))
        b_NH = bias_at(self, "qkv", f"{name}_bias", (heads, H), (axis, "head_dim"))
        y_BTNH = product(x_BTD, w_DNH, b_NH)
        return nn.with_logical_constraint(y_BTNH, ("batch", "seq", axis, None))

    def out(self, o_BTNH: jax.Array) -> jax.Array:
        """The projection back into the residual stream."""
        cfg = self.config
        N, H, D = *o_BTNH.shape[2:], cfg.width
        axes = ("heads", "head_dim", "embed")
        w_NHD = weight(self, "out", (N, H, D), axes, residual_init(cfg))
        return product(o_BTNH, w_NHD, bias_at(self, "out", "out_bias", (D,), ("embed",)), inputs=2)

    def _head_norm(self, x_BTNH: jax.Array, name: str, axis: str) -> jax.Array:
        cfg = self.config
        N, H = x_BTNH.shape[2:]
        if cfg.qk_norm == "none":
            return x_BTNH
        if cfg.qk_norm == "shared":
            return normed(cfg, x_BTNH, norm_scale(self, name, (H,), ("head_dim",)))
        scale_NH = norm_scale(self, name, (N, H), (axis, "head_dim"))
        by_head = jax.vmap(functools.partial(normed, cfg), in_axes=(2, 0), out_axes=2)
        return by_head(x_BTNH, scale_NH)

    def _common_arrays(self) -> dict[str, Any]:
        """Slopes and sinks where the config has them."""
        cfg = self.config
        N = cfg.num_heads
        arrays: dict[str, Any] = {}
        if cfg.positions == "alibi":
            arrays["slopes_N"] = jnp.array(ops.alibi_slopes(N), jnp.float32)
        if cfg.attention_sinks:
            arrays["sinks_N"] = parameter(self, "sink_bias", (N,), ("heads",), initializer(cfg))
        return arrays


class BidirectionalAttention(Attention):
    """Attention in which every token sees every other."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """o_BTNH, without a mask."""
        seen = {name: value for name, value in options.items() if name != "segment_ids_BT"}
        return ops.bidirectional_attention(q, k, v, **seen)


def attention_params(config: "ModelConfig") -> int:
    """Parameters of ordinary attention."""
    D, N, K, H = config.width, config.num_heads, config.kv_heads, config.head_width
    inputs = N * (1 + config.attention_gate) + 2 * K
    weights = D * H * (inputs + N)
    biases = config.has_bias("qkv") * H * inputs + config.has_bias("out") * D
    head_norms = H * QK_NORMS[config.qk_norm](config)
    return weights + biases + head_norms + config.attention_sinks * N


QK_NORMS: dict[str, Callable[["ModelConfig"], int]] = {
    "none": lambda config: 0,
    "shared": lambda config: 2,
    "per_head": lambda config: config.num_heads + config.kv_heads,
}
"""The choices of `model.qk_norm`: scales of queries' and keys' heads, each as wide as a head."""


def projection_params(config: "ModelConfig", heads: int) -> int:
    """Parameters of one projection to so many heads."""
    return (config.width + config.has_bias("qkv")) * config.head_width * heads


def attention_flops(config: "ModelConfig", keys: float, *, shared_keys: bool = False) -> float:
    """Forward FLOPs a token of attention whose queries see at most `keys` keys.

    Args:
      shared_keys: queries are the keys (Reformer), one projection less.

    >>> from gptjax.models import ModelConfig
    >>> attention_flops(ModelConfig(width=2, num_heads=1, head_dim=2), 3)
    56.0
    """
    N, K, H = config.num_heads, config.kv_heads, config.head_width
    inputs = N * (1 + config.attention_gate) + (1 if shared_keys else 2) * K
    return 2 * config.width * H * (N + inputs) + 4.0 * keys * N * H


def key_bytes(config: "ModelConfig", tokens: float) -> int:
    """Bytes of the keys and values of so many tokens."""
    number = jnp.dtype(config.compute_dtype).itemsize
    return int(tokens * 2 * config.kv_heads * config.head_width * number)


def key_cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    """Keys and values of so many tokens."""
    one = ring(config.kv_heads, tokens, config.head_width)
    return {"k": one, "v": one}


def _flops(config: "ModelConfig", window: bool) -> float:
    return attention_flops(config, min(config.window, config.seq_len) if window else config.seq_len)


def _cache_bytes(config: "ModelConfig", context: int, window: bool) -> int:
    return key_bytes(config, min(config.window, context) if window else context)


def _cache(config: "ModelConfig", tokens: int, window: bool) -> dict[str, Kept]:
    return key_cache(config, min(config.window, tokens) if window else tokens)


def _held(config: "ModelConfig", segmented: bool, kind: str) -> float:
    """As on a CPU, which holds the most, so that every process of a sweep counts the same."""
    kernel = kernels.attention_kernel(config, kind, segmented=segmented, backend="cpu")
    keys = config.seq_len if kernel in ("dense", "masked") else min(config.seq_len, BLOCK)
    return 5.0 * config.num_heads * keys


def _ordinary(kind: str, latent: Mixer) -> Mixer:
    window = kind == "local"
    return Mixer(
        module=Attention,
        params=attention_params,
        flops=functools.partial(_flops, window=window),
        cache_bytes=functools.partial(_cache_bytes, window=window),
        held=functools.partial(_held, kind=kind),
        cache=functools.partial(_cache, window=window),
        rewinds=not window,
        windowed=window,
        shares_kernels=True,
        latent=latent,
    )


register("global", _ordinary("global", LATENT))
register("local", _ordinary("local", LATENT_LOCAL))
ENCODERS[BOTH_WAYS] = Mixer(
    module=BidirectionalAttention,
    params=attention_params,
    flops=functools.partial(_flops, window=False),
    cache_bytes=lambda config, context: 0,
    held=lambda config, segmented: 5.0 * config.num_heads * config.seq_len,
)
