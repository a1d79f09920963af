"""Reformer attention (Kitaev et al., 2020): queries that are keys, and buckets of those alike.

Rotations are drawn once and kept. A query sees a window in its sorted bucket where the paper has
chunks, whose borders depend on later tokens.
"""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import (
    Attention,
    attention_flops,
    attention_params,
    key_bytes,
    key_cache,
    projection_params,
)
from gptjax.models.mixers.cache import Kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class ReformerConfig:
    """Reformer layers."""

    rounds: int = setting(4, "reformer: rounds of hashing", minimum=1, was="lsh_rounds")
    chunk: int = setting(
        64,
        "reformer: tokens of its own bucket that a query sees in a round",
        minimum=1,
        was="lsh_chunk",
    )
    buckets: int = setting(
        0, "reformer: buckets; 0: 2 x seq_len / chunk", minimum=0, was="lsh_buckets"
    )


class ReformerAttention(Attention):
    """Attention within buckets that several rounds of hashing find."""

    def keys(self, x_BTD: jax.Array, q_BTNH: jax.Array) -> jax.Array:
        """The queries themselves."""
        return q_BTNH

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By sorted buckets."""
        rotations, factors = self._hashing()
        chunk = self.config.mixer.reformer.chunk
        return ops.lsh_attention(q, v, rotations, factors=factors, chunk=chunk, **options)

    def _hashing(self) -> tuple[jax.Array, tuple[int, ...]]:
        """(rotations, the factors of the number of buckets)."""
        cfg = self.config
        factors = ops.bucket_factors(cfg.bucket_count)
        rounds = cfg.mixer.reformer.rounds
        return jnp.asarray(
            ops.hash_rotations(cfg.num_heads, cfg.head_width, rounds, factors)
        ), factors

    def _buckets(self, q_BTNH: jax.Array) -> jax.Array:
        """[B, T, N, R], as `write_ring` wants them."""
        return jnp.moveaxis(ops.lsh_buckets(q_BTNH, *self._hashing()), 3, 1).astype(jnp.int32)

    def fill(
        self,
        cache: dict[str, jax.Array],
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> dict[str, jax.Array]:
        """Queries, values and the buckets of all tokens."""
        assert info.decoding is not None
        kept = super().fill(cache, q, q, v, info, arrays)
        empty_BNSR = cache["buckets"]
        buckets_BNTR = jnp.moveaxis(self._buckets(q), 1, 2)[:, :, : empty_BNSR.shape[2]]
        return kept | {
            "buckets": jax.lax.dynamic_update_slice(empty_BNSR, buckets_BNTR, (0, 0, 0, 0))
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
        """By the buckets of all earlier tokens."""
        assert info.positions_BT is not None and info.decoding is not None
        buckets_BTNR = self._buckets(q)
        new = {"k": q, "v": v}
        after = {name: ops.write_ring(cache[name], x, info.positions_BT) for name, x in new.items()}
        rows_BT = jnp.broadcast_to(jnp.arange(q.shape[0])[:, None], q.shape[:2])
        slots = cache["buckets"].shape[2]
        slot_BT = jnp.where(info.positions_BT >= 0, info.positions_BT, slots)
        buckets_BNSR = cache["buckets"].at[rows_BT, :, slot_BT].set(buckets_BTNR, mode="drop")
        o_BTNH = ops.lsh_cached_attention(
            q,
            after["k"],
            after["v"],
            buckets_BTNR,
            buckets_BNSR,
            info.positions_BT,
            chunk=self.config.mixer.reformer.chunk,
        )
        return o_BTNH, after | {"buckets": buckets_BNSR}


def _keys(config: "ModelConfig") -> float:
    return config.mixer.reformer.rounds * min(config.seq_len, config.mixer.reformer.chunk + 1)


def _flops(config: "ModelConfig") -> float:
    rotations = sum(ops.bucket_factors(config.bucket_count)) // 2
    hashing = 2.0 * config.num_heads * config.head_width * rotations * config.mixer.reformer.rounds
    return attention_flops(config, _keys(config), shared_keys=True) + hashing


def _cache_bytes(config: "ModelConfig", context: int) -> int:
    """Any token may be seen again; its hashes are kept beside it."""
    return (
        key_bytes(config, context) + context * 4 * config.num_heads * config.mixer.reformer.rounds
    )


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    shape = config.num_heads, tokens, config.mixer.reformer.rounds
    buckets = Kept(shape, ("heads", None, None), jnp.int32)
    return key_cache(config, tokens) | {"buckets": buckets}


def _check(config: "ModelConfig") -> None:
    without = {**pattern.NO_SCORES, "attention_scale": 0.0, "qk_norm": "none"}
    pattern.check_without(config, "reformer", without)
    pattern.check_distances(config, "reformer")
    if config.kv_heads != config.num_heads:
        raise UserError(
            f"model.num_kv_heads={config.num_kv_heads} is not built for reformer layers, whose "
            "queries are their keys; set model.num_kv_heads=0"
        )


register(
    "reformer",
    Mixer(
        module=ReformerAttention,
        params=lambda config: attention_params(config) - projection_params(config, config.kv_heads),
        flops=_flops,
        cache_bytes=_cache_bytes,
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=_check,
        cache=_cache,
        name="reformer_attention",
    ),
)
