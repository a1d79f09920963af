"""Low-rank parameters: a matrix that stays, and a product of two thin ones that is added to it.

The thin ones are one pair for all texts, or a pair for each text of a batch by its number.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from gptjax.models.product import dense, multiply, product


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRank:
    """W0 + s·A·B (LoRA, Hu et al. 2021, section 4.1), A·B in the shape of W0.

    Attributes:
      base: W0, an array or a leaf with a rule of its own, such as a quantized one.
      lora_a: [*lead, I, R].
      lora_b: [*lead, R, O]; zero at the start, so that nothing is added.
      scale: s = α/R.
    """

    base: Any
    lora_a: jax.Array
    lora_b: jax.Array
    scale: float = dataclasses.field(metadata={"static": True})

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array that it stands for."""
        return tuple(self.base.shape)

    @property
    def ndim(self) -> int:
        """Its axes."""
        return len(self.shape)


def added(leaf: LowRank, dtype: Any) -> jax.Array:
    """s·A·B in the shape of the base."""
    ab = jnp.einsum("...IR,...RO->...IO", leaf.lora_a, leaf.lora_b)
    return (leaf.scale * ab).reshape(leaf.shape).astype(dtype)


@dense.register
def _(leaf: LowRank, dtype: Any) -> jax.Array:
    return dense(leaf.base, dtype).astype(dtype) + added(leaf, dtype)


@multiply.register
def _(leaf: LowRank, x: jax.Array, bias: Any, inputs: int, dtype: Any) -> jax.Array:
    """x·W0 + s·(x·A)·B, without the product A·B."""
    y = product(x, leaf.base, bias, inputs=inputs, dtype=dtype)
    x_TI = x.reshape(*x.shape[:-inputs], math.prod(x.shape[-inputs:]))
    thin_TR = product(x_TI, leaf.lora_a.astype(x.dtype))
    more_TO = product(thin_TR, leaf.lora_b.astype(x.dtype), dtype=y.dtype)
    return y + leaf.scale * more_TO.reshape(y.shape)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LowRankByRow:
    """W0 + A_k·B_k with a k for each row of the batch: several adapters in one product.

    It is multiplied by activations whose first axis is the batch, and stands for no single array.

    Attributes:
      base: W0, an array or a leaf with a rule of its own.
      lora_a_KIR, lora_b_KRO: of each adapter, B with its scale; ranks filled up with zeros, and all
        zeros where an adapter leaves the matrix alone.
      row_B: int32, the adapter of each row.
    """

    base: Any
    lora_a_KIR: jax.Array
    lora_b_KRO: jax.Array
    row_B: jax.Array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the matrix."""
        return tuple(self.base.shape)

    @property
    def ndim(self) -> int:
        """Its axes."""
        return len(self.shape)


@multiply.register
def _(leaf: LowRankByRow, x: jax.Array, bias: Any, inputs: int, dtype: Any) -> jax.Array:
    """x·W0 + (x·A_k)·B_k, with the thin matrices of each row gathered.

    Raises:
      TypeError: where the first axis of x is not the batch.
    """
    B = leaf.row_B.shape[0]
    if x.ndim <= inputs or x.shape[0] != B:
        raise TypeError(f"a product of {x.shape} has no axis of the {B} rows that choose adapters")
    y = product(x, leaf.base, bias, inputs=inputs, dtype=dtype)
    x_BTI = x.reshape(B, -1, math.prod(x.shape[-inputs:]))
    a_BIR, b_BRO = (side[leaf.row_B].astype(x.dtype) for side in (leaf.lora_a_KIR, leaf.lora_b_KRO))
    more_BTO = jnp.einsum("BTR,BRO->BTO", jnp.einsum("BTI,BIR->BTR", x_BTI, a_BIR), b_BRO)
    return y + more_BTO.reshape(y.shape).astype(y.dtype)


def is_low_rank(leaf: Any) -> bool:
    """Whether it is a `LowRank`."""
    return isinstance(leaf, LowRank)
