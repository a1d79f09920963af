"""Reformer attention (Kitaev et al., 2020): queries that are keys, and buckets of those alike.

Rotations are drawn once and kept. A query sees a window in its sorted bucket where the paper has
chunks, whose borders depend on later tokens.
"""

import dataclasses
from typing import TYPE_CHECKING

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
    projection_params,
)
from gptjax.models.mixers.mixer import Mixer, register

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
        0, "reformer: buckets; 0: 2 x seq_len / lsh_chunk", minimum=0, was="lsh_buckets"
    )


class ReformerAttention(Attention):
    """Attention within buckets that several rounds of hashing find."""

    def keys(self, x_BTD: jax.Array, q_BTNH: jax.Array) -> jax.Array:
        """The queries themselves."""
        return q_BTNH

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By sorted buckets."""
        cfg = self.config
        factors = ops.bucket_factors(cfg.bucket_count)
        rotations = ops.hash_rotations(
            cfg.num_heads, cfg.head_width, cfg.mixer.reformer.rounds, factors
        )
        return ops.lsh_attention(
            q, v, jnp.asarray(rotations), factors=factors, chunk=cfg.mixer.reformer.chunk, **options
        )


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
        name="reformer_attention",
    ),
)
