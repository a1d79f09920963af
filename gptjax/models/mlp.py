"""Feed-forward sublayer (MLP): two or three matrices that act on each token alone, as one value."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from gptjax import ops
from gptjax.models.parameters import bias_at, hidden_init, residual_init, weight
from gptjax.models.product import product

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Mlp:
    """One element of `ModelConfig.mlp_pattern`; every function takes the model's config first.

    Attributes:
      module: linen module with the field `config`, called with (x_BTD, seeds_B of its noise); None:
        the layer has a mixer alone.
      params: (config, active) → its parameters; `active`: only those that one token multiplies.
      flops: matmul FLOPs of one token's forward pass.
      held: numbers that training holds of one token besides those of every layer.
      routes: whether it sows a `Routing`.
    """

    module: Any
    params: Callable[[Any, bool], int]
    flops: Callable[[Any], float]
    held: Callable[[Any], float]
    routes: bool = False


MLPS: dict[str, Mlp] = {}
"""The choices of `ModelConfig.mlp_pattern`."""


class FeedForward(nn.Module):
    """Two matrices around a non-linearity, or three where it gates."""

    config: "ModelConfig"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, seeds_B: jax.Array | None = None) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        activation, is_gated = ops.FEED_FORWARD[cfg.mlp]
        h_BTF = self._up(x_BTD, "up")
        if is_gated:
            h_BTF = ops.gated(cfg.mlp, self._up(x_BTD, "gate"), h_BTF, cfg.mlp_limit)
        else:
            h_BTF = activation(h_BTF)
        h_BTF = nn.with_logical_constraint(h_BTF, ("batch", "seq", "mlp"))
        w_FD = weight(self, "down", (F, D), ("mlp", "embed"), residual_init(cfg))
        return product(h_BTF, w_FD, bias_at(self, "mlp", "down_bias", (D,), ("embed",)))

    def _up(self, x_BTD: jax.Array, name: str) -> jax.Array:
        cfg = self.config
        D, F = cfg.width, cfg.hidden_width
        w_DF = weight(self, name, (D, F), ("embed", "mlp"), hidden_init(cfg))
        return product(x_BTD, w_DF, bias_at(self, "mlp", f"{name}_bias", (F,), ("mlp",)))


def matrices(config: "ModelConfig") -> int:
    """Matrices of one feed-forward: three where it is gated."""
    return 3 if ops.FEED_FORWARD[config.mlp][1] else 2


def _params(config: "ModelConfig", active: bool) -> int:
    D, F, up = config.width, config.hidden_width, matrices(config) - 1
    return D * F * (up + 1) + config.has_bias("mlp") * (up * F + D)


def _flops(config: "ModelConfig") -> float:
    return float(2 * matrices(config) * config.width * config.hidden_width)


MLPS["dense"] = Mlp(FeedForward, _params, _flops, held=lambda config: 0.0)
