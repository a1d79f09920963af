"""Dropout: numbers that are zero at random in training, by one seed for each sequence.

The mask of a sequence is a function of its seed and of the place alone, so it is the same however
a batch is split, sharded or computed again.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32


def dropout(
    x: Float[Array, "B ..."], seeds_B: UInt32[Array, " B"], *, rate: float, place: int
) -> Float[Array, "B ..."]:
    """m·x/(1 − rate), m of each number 1 with probability 1 − rate, else 0.

    Srivastava et al., "Dropout" (2014), scaled in training so that the expectation is x.

    Args:
      seeds_B: of the sequences' masks.
      place: separates masks that are drawn from one seed.
    """
    keep = 1.0 - rate

    def mask(seed: jax.Array) -> jax.Array:
        return jax.random.bernoulli(jax.random.fold_in(jax.random.key(seed), place), keep, shape)

    shape = x.shape[1:]
    return jnp.where(jax.vmap(mask)(seeds_B), x / keep, jnp.zeros((), x.dtype))
