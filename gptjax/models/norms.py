"""Normalisation layers: LayerNorm and RMSNorm with a config's epsilon, scale and biases."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax

from gptjax import ops
from gptjax.models.parameters import bias_at, parameter

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class Norm(nn.Module):
    """LayerNorm or RMSNorm, with the config's epsilon and biases."""

    config: "ModelConfig"

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        D = x_BTD.shape[-1]
        scale = norm_scale(self, "scale", (D,), ("embed",))
        bias = None
        if cfg.norm == "layernorm":
            bias = bias_at(self, "norm", "bias", (D,), ("embed",))
        return normed(cfg, x_BTD, scale, bias)


def norm_scale(module: Any, name: str, shape: tuple[int, ...], axes: tuple[str, ...]) -> jax.Array:
    """The scale of a norm: one at the start."""
    if module.config.norm_plus_one:
        return 1.0 + parameter(module, name, shape, axes, nn.initializers.zeros)
    return parameter(module, name, shape, axes, nn.initializers.ones)


def normed(config: "ModelConfig", x: jax.Array, scale: jax.Array, bias: Any = None) -> jax.Array:
    """The norm that the config names, over the last axis."""
    return NORMS[config.norm](x, scale, bias, config.norm_eps)


NORMS: dict[str, Callable[[jax.Array, jax.Array, Any, float], jax.Array]] = {
    "layernorm": lambda x, scale, bias, eps: ops.layer_norm(x, scale, bias, eps=eps),
    "rmsnorm": lambda x, scale, bias, eps: ops.rms_norm(x, scale, eps=eps),
}
"""The choices of `model.norm`, of (x, scale, bias, epsilon)."""
