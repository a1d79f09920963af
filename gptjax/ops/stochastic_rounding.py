"""Stochastic rounding: to one of two neighbours, so that the mean is the number itself."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float32


def stochastic_round(x: Float32[Array, "..."], key: Array) -> BFloat16[Array, "..."]:
    """A bfloat16 neighbour of each number, the nearer the likelier, so that the mean is x.

    A bfloat16 is the upper half of a float32: sixteen random bits are added to the lower half, and
    what carries over rounds away from zero (Gupta et al., 2015; Zamirai et al., 2020, for
    parameters). Numbers that are not finite stay as they are.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32)
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    cut = (bits + noise) & jnp.uint32(0xFFFF0000)
    rounded = jax.lax.bitcast_convert_type(cut, jnp.float32)
    return jnp.where(jnp.isfinite(x), rounded, x).astype(jnp.bfloat16)
