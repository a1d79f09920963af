"""Weights with their outputs first: products of few tokens on a CPU in half the time.

XLA's CPU product of 2 to 32 rows with a matrix kept as [in, out] is slow: W·xᵀ with W kept as
[out, in] took 0.47 of its processor time at eight rows of GPT-2's shapes (jax 0.10.2, AMD EPYC).
The barriers keep XLA from folding the transposes back into the product. A single row is multiplied
by parts of the outputs, as a batch: the cores then read the matrix without waiting for each other
at every product, which took 0.70 of the time of a layer.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.models.product import dense, multiply, rows, transposed

MOST_ROWS = 32
"""Rows up to which it is faster; more are multiplied as usual."""

PARTS = 16
"""Parts of the outputs, where their number allows it; 2 to 16 were as fast on two cores."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OutputFirst:
    """The transpose of a matrix parameter of `shape`, whose first `inputs` axes are summed over."""

    w_FD: jax.Array
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})
    inputs: int = dataclasses.field(default=1, metadata={"static": True})

    @classmethod
    def of(cls, leaf: jax.Array, inputs: int) -> "OutputFirst":
        """The same parameter with its outputs first."""
        return cls(leaf.reshape(math.prod(leaf.shape[:inputs]), -1).T, leaf.shape, inputs)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Embedding:
    """An embedding, whose outputs come first where it is the head too."""

    w_VD: jax.Array


@dense.register
def _(leaf: OutputFirst, dtype: Any) -> jax.Array:
    return leaf.w_FD.T.reshape(leaf.shape)


@multiply.register
def _(leaf: OutputFirst, x: jax.Array, bias: Any, inputs: int, dtype: Any) -> jax.Array:
    batch, out = x.shape[: x.ndim - inputs], leaf.shape[inputs:]
    if inputs != leaf.inputs:
        return multiply(dense(leaf, x.dtype), x, bias, inputs, dtype)
    x_BD = x.reshape(math.prod(batch), -1)
    by = _one if len(x_BD) == 1 else _few if len(x_BD) <= MOST_ROWS else _many
    y = by(x_BD, leaf.w_FD.astype(x.dtype)).astype(dtype or x.dtype)
    y = y if bias is None else y + bias.reshape(-1).astype(y.dtype)
    return y.reshape(*batch, *out)


def _one(x_1D: jax.Array, w_FD: jax.Array) -> jax.Array:
    parts = math.gcd(len(w_FD), PARTS)
    w_pfD = w_FD.reshape(parts, -1, x_1D.shape[1])
    x_pD = jax.lax.optimization_barrier(jnp.broadcast_to(x_1D, (parts, x_1D.shape[1])))
    y_pf = jnp.einsum("pfd,pd->pf", w_pfD, x_pD, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(y_pf).reshape(1, -1)


def _few(x_BD: jax.Array, w_FD: jax.Array) -> jax.Array:
    x_DB = jax.lax.optimization_barrier(x_BD.T)
    y_FB = jnp.matmul(w_FD, x_DB, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(y_FB).T


def _many(x_BD: jax.Array, w_FD: jax.Array) -> jax.Array:
    sums = (((1,), (1,)), ((), ()))
    return jax.lax.dot_general(x_BD, w_FD, sums, preferred_element_type=jnp.float32)


@dense.register
def _(leaf: Embedding, dtype: Any) -> jax.Array:
    return leaf.w_VD


@rows.register
def _(leaf: Embedding, index: jax.Array, dtype: Any) -> jax.Array:
    return rows(leaf.w_VD, index, dtype)


@transposed.register
def _(leaf: Embedding) -> OutputFirst:
    return OutputFirst(leaf.w_VD, leaf.w_VD.shape[::-1])
