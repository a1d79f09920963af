"""Strided attention (Child et al., 2019, "Generating Long Sequences with Sparse Transformers").

A query sees the last `stride` tokens and every stride-th before them. The dense and banded layers
that GPT-3 alternates are the pattern ('global', 'local').
"""

from typing import TYPE_CHECKING

import jax

from gptjax import ops
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import (
    Attention,
    attention_flops,
    attention_params,
    key_bytes,
    key_cache,
)
from gptjax.models.mixers.mixer import Mixer, register

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class StridedAttention(Attention):
    """Attention whose operation skips all but every stride-th earlier token."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By strides of a block."""
        return ops.strided_attention(q, k, v, stride=self.config.block_tokens, **options)

    def sees(self) -> ops.Sees:
        """The last tokens, and every stride-th before them."""
        stride = self.config.block_tokens
        return lambda i, j: (i - j <= stride) | ((i - j) % stride == 0)


def _keys(config: "ModelConfig") -> float:
    return pattern.summarised_keys(config.seq_len, config.block_tokens, 1)


register(
    "strided",
    Mixer(
        module=StridedAttention,
        params=attention_params,
        flops=lambda config: attention_flops(config, _keys(config)),
        # Any token may be seen again.
        cache_bytes=key_bytes,
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=lambda config: pattern.check_latent(config, "strided"),
        cache=key_cache,
    ),
)
