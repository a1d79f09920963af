"""Reformer attention (Kitaev et al., 2020): queries that are keys, and buckets of those alike.

Rotations are drawn once and kept. A query sees a window in its sorted bucket where the paper has
chunks, whose borders depend on later tokens.
"""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
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


class ReformerAttention(Attention):
    """Attention within buckets that several rounds of hashing find."""

    def keys(self, x_BTD: jax.Array, q_BTNH: jax.Array) -> jax.Array:
        """The queries themselves."""
        return q_BTNH

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By sorted buckets."""
        cfg = self.config
        factors = ops.bucket_factors(cfg.bucket_count)
        rotations = ops.hash_rotations(cfg.num_heads, cfg.head_width, cfg.lsh_rounds, factors)
        return ops.lsh_attention(
            q, v, jnp.asarray(rotations), factors=factors, chunk=cfg.lsh_chunk, **options
        )


def _keys(config: "ModelConfig") -> float:
    return config.lsh_rounds * min(config.seq_len, config.lsh_chunk + 1)


def _flops(config: "ModelConfig") -> float:
    rotations = sum(ops.bucket_factors(config.bucket_count)) // 2
    hashing = 2.0 * config.num_heads * config.head_width * rotations * config.lsh_rounds
    return attention_flops(config, _keys(config), shared_keys=True) + hashing


def _cache_bytes(config: "ModelConfig", context: int) -> int:
    """Any token may be seen again; its hashes are kept beside it."""
    return key_bytes(config, context) + context * 4 * config.num_heads * config.lsh_rounds


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
