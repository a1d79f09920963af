"""Parameters of modules: their logical axes, biases and initial values."""

import math
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from gptjax.models.product import dense

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


def parameter(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Any
) -> jax.Array:
    """A float32 parameter with logical axis names; a pytree given for it (quantized) is made dense.

    Parameters that are multiplied come from `weight`.
    """
    return dense(weight(module, name, shape, axes, init), jnp.float32)


def weight(
    module: nn.Module, name: str, shape: tuple[int, ...], axes: tuple[str, ...], init: Any
) -> Any:
    """A parameter for the functions of `models/product.py`, which take pytrees too.

    A float32 array with logical axis names, or the pytree that is given in its place.
    """
    if module.has_variable("params", name) and not module.is_initializing():
        given = nn.unbox(module.get_variable("params", name))
        if not jax.tree_util.all_leaves([given]) or np.shape(given) == tuple(shape):
            return given  # Flax would trace the initializer to compare the shapes
    boxed: Any = nn.with_logical_partitioning(init, axes)
    return module.param(name, boxed, shape, jnp.float32)


def bias_at(
    module: Any, place: str, name: str, shape: tuple[int, ...], axes: tuple[str, ...]
) -> jax.Array | None:
    """A bias, zero at the start, where the config has one; else None."""
    if not module.config.has_bias(place):
        return None
    return parameter(module, name, shape, axes, nn.initializers.zeros)


def activation_type(config: "ModelConfig") -> jnp.dtype:
    return jnp.dtype(config.compute_dtype)


def initializer(config: "ModelConfig") -> Any:
    return nn.initializers.normal(config.init_scale)


def hidden_init(config: "ModelConfig") -> Any:
    return nn.initializers.normal(config.hidden_init_scale or config.init_scale)


def residual_init(config: "ModelConfig") -> Any:
    """GPT-2's: projections into the residual stream are scaled by 1/√(number of them)."""
    scale = config.hidden_init_scale or config.init_scale
    return nn.initializers.normal(scale / math.sqrt(2 * config.depth))


def init_stacked(module: nn.Module, count: int, key: jax.Array, *inputs: Any) -> Any:
    """Fresh parameters of so many copies of `module`, on a leading axis."""

    def one(key: jax.Array) -> Any:
        return nn.unbox(module.init(key, *inputs)["params"])

    return jax.lax.map(one, jax.random.split(key, count))
