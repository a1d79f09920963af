"""Linformer attention (Wang et al., 2020), by blocks.

Its projections over all positions would show every query the future; here each block has summaries
that later blocks see.
"""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from gptjax import ops
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import (
    Attention,
    attention_flops,
    attention_params,
    key_bytes,
)
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.parameters import parameter

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class LinformerAttention(Attention):
    """Attention to one's own block and to learned summaries of earlier ones."""

    def own_arrays(self, x_BTD: jax.Array, info: TokenInfo) -> dict[str, Any]:
        """The projections of a block's keys and values to their summaries."""
        cfg = self.config
        shape, axes = (cfg.block_tokens, cfg.mixer.sparse.summary), ("positions", "rank")
        init = nn.initializers.normal(cfg.block_tokens**-0.5)
        names = ("key_summary", "value_summary")
        return {f"{name}_aR": parameter(self, name, shape, axes, init) for name in names}

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By blocks."""
        return ops.linformer_causal_attention(q, k, v, **options)


def _keys(config: "ModelConfig") -> float:
    return pattern.summarised_keys(config.seq_len, config.block_tokens, config.mixer.sparse.summary)


def _flops(config: "ModelConfig") -> float:
    summaries = 2.0 * 2 * config.mixer.sparse.summary * config.kv_heads * config.head_width
    return attention_flops(config, _keys(config)) + summaries


def _check(config: "ModelConfig") -> None:
    pattern.check_latent(config, "linformer")
    pattern.check_distances(config, "linformer")
    pattern.check_summary(config)


register(
    "linformer",
    Mixer(
        module=LinformerAttention,
        params=lambda config: (
            attention_params(config) + 2 * config.block_tokens * config.mixer.sparse.summary
        ),
        flops=_flops,
        cache_bytes=lambda config, context: key_bytes(
            config, pattern.summarised_tokens(config, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=_check,
        name="linformer_attention",
    ),
)
