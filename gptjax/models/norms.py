"""Normalisation: LayerNorm and RMSNorm with a config's settings."""

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
    """What a norm multiplies by: one at the start."""
    if module.config.norm_plus_one:
        return 1.0 + parameter(module, name, shape, axes, nn.initializers.zeros)
    return parameter(module, name, shape, axes, nn.initializers.ones)


def normed(config: "ModelConfig", x: jax.Array, scale: jax.Array, bias: Any = None) -> jax.Array:
    if config.norm == "rmsnorm":
        return ops.rms_norm(x, scale, eps=config.norm_eps)
    return ops.layer_norm(x, scale, bias, eps=config.norm_eps)
