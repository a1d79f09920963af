"""Matrix product of every projection, with a written-out backward pass."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float

PRODUCT = "product"
"""The name by which rematerialisation may keep what this module computes."""


def linear(
    x: Float[Array, "*batch D"],
    w_DF: Float[Array, "D F"],
    b_F: Float[Array, " F"] | None = None,
    *,
    dtype: Any = None,
) -> Float[Array, "*batch F"]:
    """x·w + b, multiplied in the type of x and accumulated in float32.

    The gradients of w and b are accumulated and kept in float32, whatever the type of x.

    Args:
      dtype: the type of the result; that of x by default.

    >>> linear(jnp.array([1.0, 2.0]), jnp.eye(2), jnp.array([0.5, 0.0])).tolist()
    [1.5, 2.0]
    """
    y = checkpoint_name(_matmul(jnp.dtype(dtype or x.dtype), x, w_DF), PRODUCT)
    return y if b_F is None else _add_bias(y, b_F)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _matmul(dtype: jnp.dtype, x: jax.Array, w_DF: jax.Array) -> jax.Array:
    wide = jnp.matmul(x, w_DF.astype(x.dtype), preferred_element_type=jnp.float32)
    return wide.astype(dtype)


def _matmul_forward(dtype: jnp.dtype, x: jax.Array, w_DF: jax.Array) -> tuple[jax.Array, tuple]:
    return _matmul(dtype, x, w_DF), (x, w_DF)


def _matmul_backward(dtype: jnp.dtype, saved: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    x, w_DF = saved
    g = g.astype(x.dtype)
    dx = jnp.matmul(g, w_DF.astype(x.dtype).T, preferred_element_type=jnp.float32)
    return dx.astype(x.dtype), _weight_gradient(x, g).astype(w_DF.dtype)


_matmul.defvjp(_matmul_forward, _matmul_backward)


def _weight_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """xᵀ·g summed over every axis but the last.

    CPU libraries are up to twice as fast when the result has fewer rows than columns. The
    barriers keep XLA from folding a transpose into the product: this one, and that of a head tied
    to the embedding.
    """
    if x.shape[-1] > g.shape[-1]:
        return jax.lax.optimization_barrier(_contract_batch(g, x)).T
    return jax.lax.optimization_barrier(_contract_batch(x, g))


def _contract_batch(x: jax.Array, y: jax.Array) -> jax.Array:
    if not jax.sharding.get_abstract_mesh().empty:
        # As they are: over several devices an axis that is sharded is gathered before it is merged.
        axes: tuple[int, ...] = tuple(range(x.ndim - 1))
    else:
        # As matrices: XLA's CPU backend copies the operands of a product over two axes.
        axes = (0,)
        x, y = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    dimensions = ((axes, axes), ((), ()))
    return jax.lax.dot_general(x, y, dimensions, preferred_element_type=jnp.float32)


@jax.custom_vjp
def _add_bias(y: jax.Array, b_F: jax.Array) -> jax.Array:
    return y + b_F.astype(y.dtype)


def _add_bias_forward(y: jax.Array, b_F: jax.Array) -> tuple[jax.Array, jax.Array]:
    return _add_bias(y, b_F), b_F


def _add_bias_backward(b_F: jax.Array, g: jax.Array) -> tuple[jax.Array, jax.Array]:
    axes = tuple(range(g.ndim - 1))
    return g, jnp.sum(g, axis=axes, dtype=jnp.float32).astype(b_F.dtype)


_add_bias.defvjp(_add_bias_forward, _add_bias_backward)
