"""Attention by heads, over all earlier tokens or some of them."""

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.mixers.kernels import attend
from gptjax.models.norms import norm_scale, normed
from gptjax.models.parameters import (
    bias_at,
    hidden_init,
    initializer,
    merge_heads,
    parameter,
    residual_init,
)
from gptjax.models.rope import rotate


class Attention(nn.Module):
    """Projections to heads, positions by rotation, attention, projection back.

    Attributes:
      kind: an element of the config's layer pattern, not "ssm".
    """

    config: ModelConfig
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, segment_ids_BT: jax.Array | None) -> jax.Array:
        cfg = self.config
        N, K = cfg.num_heads, cfg.kv_heads
        q_BTNH = self._heads(x_BTD, "query", N, "heads")
        shared = self.kind == "reformer"
        k_BTKH = q_BTNH if shared else self._heads(x_BTD, "key", K, "kv_heads")
        v_BTKH = self._heads(x_BTD, "value", K, "kv_heads")
        q_BTNH = self._head_norm(q_BTNH, "query_norm_scale", "heads")
        k_BTKH = self._head_norm(k_BTKH, "key_norm_scale", "kv_heads")
        if cfg.positions == "rotary":
            q_BTNH, k_BTKH = rotate(cfg, q_BTNH), rotate(cfg, k_BTKH)
        extras = self._extras() | self._of_kind(x_BTD)
        o_BTNH = attend(cfg, self.kind, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, extras)
        o_BTNH = nn.with_logical_constraint(o_BTNH, ("batch", "seq", "heads", None))
        if cfg.attention_gate:
            o_BTNH = o_BTNH * jax.nn.sigmoid(self._heads(x_BTD, "gate", N, "heads"))
        return self._out(o_BTNH)

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

    def _extras(self) -> dict[str, Any]:
        """Slopes and sinks where the config has them."""
        cfg = self.config
        N = cfg.num_heads
        extras: dict[str, Any] = {}
        if cfg.positions == "alibi":
            extras["slopes_N"] = jnp.array(ops.alibi_slopes(N), jnp.float32)
        if cfg.attention_sinks:
            extras["sinks_N"] = parameter(self, "sink_bias", (N,), ("heads",), initializer(cfg))
        return extras

    def _of_kind(self, x_BTD: jax.Array) -> dict[str, Any]:
        """What only this kind of attention has: Linformer's summaries, Longformer's first rows."""
        cfg = self.config
        if self.kind == "linformer":
            shape, axes = (cfg.block_tokens, cfg.sparse_summary), ("positions", "rank")
            init = nn.initializers.normal(cfg.block_tokens**-0.5)
            names = ("key_summary", "value_summary")
            return {f"{name}_aR": parameter(self, name, shape, axes, init) for name in names}
        if self.kind != "longformer":
            return {}
        first_BgD = x_BTD[:, : cfg.global_tokens]
        q_BgNH = self._heads(first_BgD, "global_query", cfg.num_heads, "heads")
        k_BgKH = self._heads(first_BgD, "global_key", cfg.kv_heads, "kv_heads")
        v_BgKH = self._heads(first_BgD, "global_value", cfg.kv_heads, "kv_heads")
        if cfg.positions == "rotary":
            q_BgNH, k_BgKH = rotate(cfg, q_BgNH), rotate(cfg, k_BgKH)
        return {"global_q_BgNH": q_BgNH, "global_k_BSKH": k_BgKH, "global_v_BSKU": v_BgKH}

    def _heads(self, x_BTD: jax.Array, name: str, heads: int, axis: str) -> jax.Array:
        cfg = self.config
        D, H = x_BTD.shape[-1], cfg.head_width
        axes = ("embed", axis, "head_dim")
        w_DNH = parameter(self, name, (D, heads, H), axes, hidden_init(cfg))
        b_NH = bias_at(self, "qkv", f"{name}_bias", (heads, H), (axis, "head_dim"))
        y = ops.linear(x_BTD, w_DNH.reshape(D, -1), None if b_NH is None else b_NH.reshape(-1))
        y_BTNH = y.reshape(*x_BTD.shape[:2], heads, H)
        return nn.with_logical_constraint(y_BTNH, ("batch", "seq", axis, None))

    def _out(self, o_BTNH: jax.Array) -> jax.Array:
        cfg = self.config
        N, H, D = *o_BTNH.shape[2:], cfg.width
        axes = ("heads", "head_dim", "embed")
        w_NHD = parameter(self, "out", (N, H, D), axes, residual_init(cfg))
        b_D = bias_at(self, "out", "out_bias", (D,), ("embed",))
        return ops.linear(merge_heads(o_BTNH), w_NHD.reshape(N * H, D), b_D)
