"""Positions without parameters: sinusoids to add, rotations of queries and keys."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sinusoids(
    positions_T: Int[Array, " T"], width: int, *, base: float = 10_000.0
) -> Float[Array, "T {width}"]:
    """Sines at even and cosines at odd columns (Vaswani et al., 2017, section 3.5).

    Column 2i is sin(t/base^(2i/width)), column 2i+1 the cosine of the same angle.
    """
    angles_TC = _angles(positions_T, width, base)
    waves = jnp.stack([jnp.sin(angles_TC), jnp.cos(angles_TC)], axis=-1)
    return waves.reshape(positions_T.shape[0], width)


def rotary(
    x_BTNH: Float[Array, "B T N H"], positions_T: Int[Array, " T"], *, base: float = 10_000.0
) -> Float[Array, "B T N H"]:
    """Rotate pairs (i, i + H/2) by the angle t·base^(−2i/H) (Su et al., 2021, in Llama's layout).

    The layout is that of the published Llama weights in Hugging Face's form: the two members of
    a pair are half a head apart. Angles are computed in float32.
    """
    angles_TC = _angles(positions_T, x_BTNH.shape[-1], base)
    cos = jnp.cos(angles_TC)[:, None, :].astype(x_BTNH.dtype)
    sin = jnp.sin(angles_TC)[:, None, :].astype(x_BTNH.dtype)
    first, second = jnp.split(x_BTNH, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _angles(positions_T: Array, width: int, base: float) -> Array:
    """t·base^(−2i/width) for i < width/2: float32[T, width/2]."""
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return positions_T.astype(jnp.float32)[:, None] * frequencies
