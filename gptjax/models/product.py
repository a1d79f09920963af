"""The product of activations with one parameter, whatever the parameter is made of."""

import functools
import math
from typing import Any

import jax

from gptjax import ops


def product(
    x: jax.Array, leaf: Any, bias: jax.Array | None = None, *, inputs: int = 1, dtype: Any = None
) -> jax.Array:
    """x·leaf + bias over the last `inputs` axes of x, which are the first of the leaf.

    A module says which axes its parameter has and never reshapes it: D→F and D→(N, H) have one
    input axis, (N, H)→D has two.

    Args:
      leaf: an array, or a small pytree whose type has a rule of `multiply` (`multiply.register`):
        that is where quantized and low-rank parameters come in.
      dtype: the type of the result; that of x by default.

    >>> product(jax.numpy.ones((5, 4)), jax.numpy.ones((4, 2, 3))).shape
    (5, 2, 3)
    >>> product(jax.numpy.ones((5, 2, 3)), jax.numpy.ones((2, 3, 4)), inputs=2).shape
    (5, 4)
    """
    return multiply(leaf, x, bias, inputs, dtype)


@functools.singledispatch
def multiply(leaf: Any, x: jax.Array, bias: jax.Array | None, inputs: int, dtype: Any) -> jax.Array:
    """The rule of one type of leaf; this one is for arrays."""
    width, batch, out = math.prod(leaf.shape[:inputs]), x.shape[:-inputs], leaf.shape[inputs:]
    x, w_DF = x.reshape(*batch, width), leaf.reshape(width, -1)
    y = ops.linear(x, w_DF, None if bias is None else bias.reshape(-1), dtype=dtype)
    return y.reshape(*batch, *out)
