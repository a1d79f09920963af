"""Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).

Keys and values are linear functions of one narrow normed vector a token, kv_rank wide, and of one
rotated key of rope_dim columns that all heads share: those two are all that a cache must hold.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.norms import normed
from gptjax.models.parameters import hidden_init, merge_heads, parameter, residual_init
from gptjax.models.rope import rotate


class LatentAttention(nn.Module):
    """Attention through low-rank queries, keys and values."""

    config: ModelConfig
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        D, N, H, U, R = cfg.width, cfg.num_heads, cfg.head_width, cfg.value_width, cfg.kv_rank
        r = cfg.rope_dim
        q_BTNH = self._queries(x_BTD)
        c_BTR = self._linear(x_BTD, "kv_down", (R + r,), ("rank",))
        c_BTR, k_BT1r = c_BTR[..., :R], c_BTR[..., None, R:]
        c_BTR = self._norm(c_BTR, "kv_norm_scale")
        kv_BTNH = self._linear(c_BTR, "kv_up", (N, H + U), ("heads", "head_dim"))
        k_BT1r = jnp.broadcast_to(rotate(cfg, k_BT1r), (*kv_BTNH.shape[:3], r))
        q_BTNH = jnp.concatenate([q_BTNH[..., :H], rotate(cfg, q_BTNH[..., H:])], axis=-1)
        k_BTNH = jnp.concatenate([kv_BTNH[..., :H], k_BT1r], axis=-1)
        o_BTNU = ops.attend_by(
            ops.masked_attention,
            q_BTNH,
            k_BTNH,
            kv_BTNH[..., H:],
            scale=latent_scale(cfg),
            window=cfg.window if self.kind == "local" else 0,
            segment_ids_BT=segment_ids_BT,
        )
        axes = ("heads", "head_dim", "embed")
        w_NUD = parameter(self, "out", (N, U, D), axes, residual_init(cfg))
        return ops.linear(merge_heads(o_BTNU), w_NUD.reshape(N * U, D))

    def _queries(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        heads, axes = (cfg.num_heads, cfg.head_width + cfg.rope_dim), ("heads", "head_dim")
        if not cfg.q_rank:
            return self._linear(x_BTD, "query", heads, axes)
        c_BTR = self._linear(x_BTD, "query_down", (cfg.q_rank,), ("rank",))
        return self._linear(self._norm(c_BTR, "query_norm_scale"), "query_up", heads, axes)

    def _norm(self, c_BTR: jax.Array, name: str) -> jax.Array:
        scale = parameter(self, name, c_BTR.shape[-1:], ("rank",), nn.initializers.ones)
        return normed(self.config, c_BTR, scale)

    def _linear(
        self, x: jax.Array, name: str, out: tuple[int, ...], axes: tuple[str, ...]
    ) -> jax.Array:
        width = x.shape[-1]
        w = parameter(self, name, (width, *out), ("embed", *axes), hidden_init(self.config))
        return ops.linear(x, w.reshape(width, -1)).reshape(*x.shape[:-1], *out)


def latent_scale(config: ModelConfig) -> float:
    """1/√(columns of a query), times YaRN's factor squared as DeepSeek's published code has it."""
    if config.attention_scale:
        return config.attention_scale
    scale = (config.head_width + config.rope_dim) ** -0.5
    if config.rope_scaling != "none" and config.rope_mscale_all_dim and config.rope_factor > 1:
        scale *= (0.1 * config.rope_mscale_all_dim * math.log(config.rope_factor) + 1) ** 2
    return scale


def latent_size(config: ModelConfig) -> int:
    """Parameters of one latent attention."""
    D, N, H, U = config.width, config.num_heads, config.head_width, config.value_width
    R, Q, r = config.kv_rank, config.q_rank, config.rope_dim
    query = (D + N * (H + r) + 1) * Q if Q else D * N * (H + r)
    return query + D * (R + r) + R + R * N * (H + U) + N * U * D
