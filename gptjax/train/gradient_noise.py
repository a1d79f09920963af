"""Gradient noise scale, from the gradients of a batch and of its micro-batches.

McCandlish et al. (2018, arXiv:1812.06162), appendix A.1: with |G|² the squared norm of the true
gradient and tr Σ the summed variance of one sequence's gradient, a mean over B sequences has the
expected squared norm |G|² + tr Σ/B, so that two batch sizes give both. Their ratio B_simple =
tr Σ/|G|² is about the batch size above which more parallel data stops paying.
"""

import dataclasses

import jax
import jax.numpy as jnp
from jax import Array

MEMORY = 0.99  # weight of the past in the averages of both numbers, each step


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GradientNoise:
    """Averages over the last hundred steps or so; their ratio needs no bias correction.

    Attributes:
      trace: tr Σ, of gradients of one sequence.
      square: |G|².
    """

    trace: Array
    square: Array

    @property
    def sequences(self) -> Array:
        """B_simple in sequences."""
        return self.trace / self.square


def no_estimate() -> GradientNoise:
    """Before the first step."""
    return GradientNoise(jnp.zeros(()), jnp.zeros(()))


def estimate(small: Array, big: Array, small_batch: float, big_batch: float) -> GradientNoise:
    """Unbiased estimates from one step, either of which may be negative (equations A.2, A.3).

    Args:
      small: mean over the micro-batches of their gradients' squared norms.
      big: squared norm of the whole batch's gradient.
      small_batch, big_batch: sequences in a micro-batch and in the batch.

    >>> found = estimate(jnp.float32(3.0), jnp.float32(2.0), 1, 2)  # 3 = 1 + 2/1, 2 = 1 + 2/2
    >>> float(found.square), float(found.trace)
    (1.0, 2.0)
    """
    square = (big_batch * big - small_batch * small) / (big_batch - small_batch)
    trace = (small - big) / (1 / small_batch - 1 / big_batch)
    return GradientNoise(trace, square)


def remember(past: GradientNoise, new: GradientNoise) -> GradientNoise:
    """The averages after one more step; a step that is not finite is left out."""
    fine = jnp.isfinite(new.trace) & jnp.isfinite(new.square)

    def average(old: Array, one: Array) -> Array:
        return jnp.where(fine, MEMORY * old + (1 - MEMORY) * one, old)

    return jax.tree.map(average, past, new)
