"""Longformer attention (Beltagy et al., 2020), causal, with the first tokens as the global ones."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mixers import pattern
from gptjax.models.mixers.attention import (
    Attention,
    attention_flops,
    attention_params,
    key_bytes,
    projection_params,
)
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class LongformerConfig:
    """Longformer layers, besides model.window."""

    global_tokens: int = setting(
        1,
        "longformer: first tokens, which all see and which have projections of their own",
        minimum=1,
        was="global_tokens",
    )


class LongformerAttention(Attention):
    """A window, and first tokens with projections of their own that all see and that see all."""

    def own_arrays(self, x_BTD: jax.Array, info: TokenInfo) -> dict[str, Any]:
        """Queries of the first tokens, keys and values for them."""
        cfg = self.config
        positions = info.positions_BT
        first = TokenInfo(
            positions_BT=None
            if positions is None
            else positions[:, : cfg.mixer.longformer.global_tokens]
        )
        first_BgD = x_BTD[:, : cfg.mixer.longformer.global_tokens]
        q_BgNH = self.heads(first_BgD, "global_query", cfg.num_heads, "heads")
        k_BgKH = self.heads(first_BgD, "global_key", cfg.kv_heads, "kv_heads")
        v_BgKH = self.heads(first_BgD, "global_value", cfg.kv_heads, "kv_heads")
        return {
            "global_q_BgNH": self.rotated(q_BgNH, first),
            "global_k_BSKH": self.rotated(k_BgKH, first),
            "global_v_BSKU": v_BgKH,
        }

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By the window, and by the first tokens."""
        return ops.longformer_attention(q, k, v, window=self.config.window, **options)


def _keys(config: "ModelConfig") -> float:
    return min(config.seq_len, config.window + config.mixer.longformer.global_tokens)


def _params(config: "ModelConfig") -> int:
    own = projection_params(config, config.num_heads)
    return attention_params(config) + own + 2 * projection_params(config, config.kv_heads)


def _flops(config: "ModelConfig") -> float:
    N, K, H = config.num_heads, config.kv_heads, config.head_width
    share = min(1.0, config.mixer.longformer.global_tokens / config.seq_len)
    return attention_flops(config, _keys(config)) + 2.0 * config.width * H * (N + 2 * K) * share


register(
    "longformer",
    Mixer(
        module=LongformerAttention,
        params=_params,
        flops=_flops,
        cache_bytes=lambda config, context: key_bytes(
            config, min(config.window + config.mixer.longformer.global_tokens, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=lambda config: pattern.check_without(config, "longformer", {"qk_norm": "none"}),
        name="longformer_attention",
        windowed=True,
    ),
)
