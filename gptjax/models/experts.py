"""The feed-forward as a mixture of experts."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.parts import hidden_init, parameter, residual_init


class Experts(nn.Module):
    """A router over the config's experts, and shared experts that every token passes."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D, E, F = cfg.width, cfg.num_experts, cfg.expert_hidden_width
        activation, gated = ops.FEED_FORWARD[cfg.mlp]
        x_MD = x_BTD.reshape(-1, D)
        w_DE = parameter(self, "router", (D, E), ("embed", "experts"), hidden_init(cfg))
        weights_Mk, experts_Mk = ops.route(
            x_MD.astype(jnp.float32) @ w_DE,
            cfg.experts_per_token,
            renormalise=cfg.router == "renormalised",
            scale=cfg.router_scale,
            groups=cfg.router_groups,
            top_groups=cfg.router_top_groups,
        )
        axes = ("experts", "embed", "mlp")
        up_EDF = parameter(self, "experts_up", (E, D, F), axes, hidden_init(cfg))
        gate_EDF = None
        if gated:
            gate_EDF = parameter(self, "experts_gate", (E, D, F), axes, hidden_init(cfg))
        axes = ("experts", "mlp", "embed")
        down_EFD = parameter(self, "experts_down", (E, F, D), axes, residual_init(cfg))
        y_MD = ops.mix_experts(
            x_MD, weights_Mk, experts_Mk, up_EDF, gate_EDF, down_EFD, activation
        )
        y_BTD = y_MD.reshape(x_BTD.shape)
        if cfg.shared_experts:
            y_BTD = y_BTD + self._shared(x_BTD, activation, gated)
        return y_BTD

    def _shared(self, x_BTD: jax.Array, activation: Any, gated: bool) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.shared_experts * cfg.expert_hidden_width

        def up(name: str) -> jax.Array:
            w_DF = parameter(self, name, (D, F), ("embed", "mlp"), hidden_init(cfg))
            return ops.linear(x_BTD, w_DF)

        h_BTF = up("shared_up")
        h_BTF = activation(up("shared_gate")) * h_BTF if gated else activation(h_BTF)
        w_FD = parameter(self, "shared_down", (F, D), ("mlp", "embed"), residual_init(cfg))
        return ops.linear(h_BTF, w_FD)


def experts_size(config: ModelConfig, *, active: bool = False) -> int:
    """Parameters of one mixture; with `active`, those that one token multiplies."""
    D, F = config.width, config.expert_hidden_width
    matrices = 3 if ops.FEED_FORWARD[config.mlp][1] else 2
    count = config.experts_per_token if active else config.num_experts
    return D * config.num_experts + matrices * D * F * (count + config.shared_experts)
