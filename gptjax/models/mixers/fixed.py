"""Fixed attention (Child et al., 2019, "Generating Long Sequences with Sparse Transformers").

A query sees its own block, and the last tokens of each earlier one.
"""

from typing import TYPE_CHECKING

import jax

from gptjax import ops
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import Attention, attention_flops, attention_params, key_bytes
from gptjax.models.mixers.mixer import Mixer, register

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class FixedAttention(Attention):
    """Attention to one's own block and to the summary of earlier ones."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By blocks."""
        block, summary = self.config.block_tokens, self.config.mixer.sparse.summary
        return ops.fixed_attention(q, k, v, block=block, summary=summary, **options)


def _keys(config: "ModelConfig") -> float:
    return pattern.summarised_keys(config.seq_len, config.block_tokens, config.mixer.sparse.summary)


def _check(config: "ModelConfig") -> None:
    pattern.check_latent(config, "fixed")
    pattern.check_summary(config)


register(
    "fixed",
    Mixer(
        module=FixedAttention,
        params=attention_params,
        flops=lambda config: attention_flops(config, _keys(config)),
        cache_bytes=lambda config, context: key_bytes(
            config, pattern.summarised_tokens(config, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=_check,
    ),
)
