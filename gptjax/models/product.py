"""Products of activations with a parameter: an array, or a pytree that stands for one.

Quantized and low-rank parameters are such pytrees. Modules never reshape, transpose or index a
weight by themselves: they call a function of this file, so that a new kind of leaf is usable in
every mixer, feed-forward, mixture of experts, head and embedding.

A kind of leaf must register `dense`; the other rules fall back on it, and are registered where the
leaf has something faster.
"""

import dataclasses
import functools
import math
from typing import Any

import flax.linen as nn
import jax

from gptjax import ops


def product(
    x: jax.Array, leaf: Any, bias: jax.Array | None = None, *, inputs: int = 1, dtype: Any = None
) -> jax.Array:
    """x·leaf + bias over the last `inputs` axes of x, which are the first of the leaf.

    A module says which axes its parameter has and never reshapes it: D→F and D→(N, H) have one
    input axis, (N, H)→D has two.

    Args:
      leaf: an array, or a pytree with a rule of `dense` or `multiply`.
      dtype: the type of the result; that of x by default.

    >>> product(jax.numpy.ones((5, 4)), jax.numpy.ones((4, 2, 3))).shape
    (5, 2, 3)
    >>> product(jax.numpy.ones((5, 2, 3)), jax.numpy.ones((2, 3, 4)), inputs=2).shape
    (5, 4)
    """
    return multiply(leaf, x, bias, inputs, dtype)


@functools.singledispatch
def dense(leaf: Any, dtype: Any) -> jax.Array:
    """The array that a leaf stands for, in `dtype`; a parameter that is an array stays as it is.

    Raises:
      TypeError: for a pytree whose type has no rule.
    """
    if not jax.tree_util.all_leaves([leaf]):
        raise TypeError(f"{type(leaf).__name__} has no rule of gptjax.models.product.dense")
    return leaf


@functools.singledispatch
def multiply(leaf: Any, x: jax.Array, bias: jax.Array | None, inputs: int, dtype: Any) -> jax.Array:
    """The rule of `product`."""
    w = dense(leaf, x.dtype)
    width, batch, out = math.prod(w.shape[:inputs]), x.shape[:-inputs], w.shape[inputs:]
    x, w_DF = x.reshape(*batch, width), w.reshape(width, -1)
    y = ops.linear(x, w_DF, None if bias is None else bias.reshape(-1), dtype=dtype)
    return y.reshape(*batch, *out)


@functools.singledispatch
def multiply_ragged(leaf: Any, x_SD: jax.Array, sizes_E: jax.Array) -> jax.Array:
    """y_SF of tokens sorted by expert: the first sizes_E[0] by expert 0 of leaf_EDF, and so on."""
    return ops.ragged_product(x_SD, dense(leaf, x_SD.dtype), sizes_E)


@functools.singledispatch
def multiply_slots(leaf: Any, x_BECD: jax.Array) -> jax.Array:
    """y_BECF of tokens in the slots of their experts, each by its matrix of leaf_EDF."""
    return ops.slot_product(x_BECD, dense(leaf, x_BECD.dtype))


@functools.singledispatch
def rows(leaf: Any, index: jax.Array, dtype: Any) -> jax.Array:
    """leaf[index] in `dtype`: the vectors of tokens in a table whose first axis is the vocabulary.

    >>> rows(jax.numpy.arange(6.0).reshape(3, 2), jax.numpy.array([2, 0]), "float32").tolist()
    [[4.0, 5.0], [0.0, 1.0]]
    """
    # Whole rows, to be looked up where they are wanted.
    table_VD = nn.with_logical_constraint(dense(leaf, dtype), ("vocab", None))
    return table_VD.astype(dtype)[index]


@functools.singledispatch
def transposed(leaf: Any) -> Any:
    """The leaf as a matrix with its two axes exchanged: an embedding as a head."""
    return leaf.T if jax.tree_util.all_leaves([leaf]) else Transposed(leaf)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Transposed:
    """The transpose of a leaf that is no array."""

    leaf: Any


@dense.register
def _(leaf: Transposed, dtype: Any) -> jax.Array:
    return dense(leaf.leaf, dtype).T
