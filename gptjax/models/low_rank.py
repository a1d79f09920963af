"""Low-rank parameters: a matrix that stays, and a product of two thin ones that is added to it."""

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


def is_low_rank(leaf: Any) -> bool:
    """Whether it is a leaf of this file."""
    return isinstance(leaf, LowRank)
