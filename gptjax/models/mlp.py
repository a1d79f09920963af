"""The feed-forward: a multilayer perceptron that acts on each token alone."""

import flax.linen as nn
import jax

from gptjax import ops
from gptjax.models.config import ModelConfig
from gptjax.models.parameters import bias_at, hidden_init, parameter, residual_init


class FeedForward(nn.Module):
    """Two matrices around a non-linearity, or three where it gates."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        activation, is_gated = ops.FEED_FORWARD[cfg.mlp]
        h_BTF = self._up(x_BTD, "up")
        if is_gated:
            h_BTF = ops.gated(cfg.mlp, self._up(x_BTD, "gate"), h_BTF, cfg.mlp_limit)
        else:
            h_BTF = activation(h_BTF)
        h_BTF = nn.with_logical_constraint(h_BTF, ("batch", "seq", "mlp"))
        w_FD = parameter(self, "down", (F, D), ("mlp", "embed"), residual_init(cfg))
        return ops.linear(h_BTF, w_FD, bias_at(self, "mlp", "down_bias", (D,), ("embed",)))

    def _up(self, x_BTD: jax.Array, name: str) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        w_DF = parameter(self, name, (D, F), ("embed", "mlp"), hidden_init(cfg))
        return ops.linear(x_BTD, w_DF, bias_at(self, "mlp", f"{name}_bias", (F,), ("mlp",)))
