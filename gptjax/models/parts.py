"""What the modules of every kind of block share: parameters, biases, norms, initial values."""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.config import ModelConfig


def parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Any
) -> jax.Array:
    """A float32 parameter with logical axis names."""
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape, jnp.float32)


def bias_at(
    module: Any, place: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array | None:
    """A parameter that starts at zero, where the config wants biases."""
    if not module.config.has_bias(place):
        return None
    return parameter(module, name, shape, axes, nn.initializers.zeros)


def merge_heads(x_BTNH: jax.Array) -> jax.Array:
    B, T, N, H = x_BTNH.shape
    return x_BTNH.reshape(B, T, N * H)


def activation_type(config: ModelConfig) -> jnp.dtype:
    return jnp.dtype(config.compute_dtype)


class Norm(nn.Module):
    """LayerNorm or RMSNorm, with the config's epsilon and biases."""

    config: ModelConfig

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


def normed(config: ModelConfig, x: jax.Array, scale: jax.Array, bias: Any = None) -> jax.Array:
    if config.norm == "rmsnorm":
        return ops.rms_norm(x, scale, eps=config.norm_eps)
    return ops.layer_norm(x, scale, bias, eps=config.norm_eps)


def initializer(config: ModelConfig) -> Any:
    return nn.initializers.normal(config.init_scale)


def hidden_init(config: ModelConfig) -> Any:
    return nn.initializers.normal(config.hidden_init_scale or config.init_scale)


def residual_init(config: ModelConfig) -> Any:
    """GPT-2's: projections into the stream are scaled by 1/√(number of them)."""
    scale = config.hidden_init_scale or config.init_scale
    return nn.initializers.normal(scale / math.sqrt(2 * config.depth))


def init_stacked(module: nn.Module, count: int, key: jax.Array, *inputs: Any) -> Any:
    """Fresh parameters of so many copies of `module`, on a leading axis."""

    def one(key: jax.Array) -> Any:
        return nn.unbox(module.init(key, *inputs)["params"])

    return jax.lax.map(one, jax.random.split(key, count))
