"""Positions without parameters: sinusoids to add, rotations of queries and keys."""

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def sinusoids(
    positions: Int[Array, "*T"], width: int, *, base: float = 10_000.0
) -> Float[Array, "*T {width}"]:
    """Sines at even and cosines at odd columns (Vaswani et al., 2017, section 3.5).

    Column 2i is sin(t/base^(2i/width)), column 2i+1 the cosine of the same angle.
    """
    angles_TC = _angles(positions, width, base)
    waves = jnp.stack([jnp.sin(angles_TC), jnp.cos(angles_TC)], axis=-1)
    return waves.reshape(*positions.shape, width)


def rotary(
    x_BTNH: Float[Array, "B T N H"],
    positions: Int[Array, " T"] | Int[Array, "B T"],
    *,
    base: float = 10_000.0,
    frequencies_C: Float[Array, " C"] | None = None,
    factor: float = 1.0,
    interleaved: bool = False,
) -> Float[Array, "B T N H"]:
    """Rotate pairs by the angle t·base^(−2i/H) (Su et al., 2021).

    Pairs are (i, i + H/2), the layout of the published Llama weights in Hugging Face's form, or
    (2i, 2i + 1), the paper's. Angles are computed in float32.

    Args:
      positions: one for each token of a sequence, or of each sequence.
      frequencies_C: angles of one step instead of those of `base`; where they are fewer than H/2,
        only the first 2·C columns are rotated (partial rotary).
      factor: multiplies the rotated columns (YaRN's and LongRoPE's attention factor).
      interleaved: pairs are neighbours.
    """
    width = x_BTNH.shape[-1] if frequencies_C is None else 2 * frequencies_C.shape[0]
    if frequencies_C is None:
        angles_TC = _angles(positions, width, base)
    else:
        angles_TC = positions.astype(jnp.float32)[..., None] * frequencies_C
    cos, sin = jnp.cos(angles_TC), jnp.sin(angles_TC)
    if factor != 1.0:
        cos, sin = cos * factor, sin * factor
    cos, sin = (wave[..., None, :].astype(x_BTNH.dtype) for wave in (cos, sin))
    turned, rest = x_BTNH[..., :width], x_BTNH[..., width:]
    if interleaved:
        first, second = turned[..., ::2], turned[..., 1::2]
    else:
        first, second = jnp.split(turned, 2, axis=-1)
    pair = (first * cos - second * sin, second * cos + first * sin)
    if interleaved:
        turned = jnp.stack(pair, axis=-1).reshape(turned.shape)
        return turned if width == x_BTNH.shape[-1] else jnp.concatenate([turned, rest], axis=-1)
    parts = pair if width == x_BTNH.shape[-1] else (*pair, rest)
    return jnp.concatenate(parts, axis=-1)


def _angles(positions: Array, width: int, base: float) -> Array:
    """t·base^(−2i/width) for i < width/2: float32[…, T, width/2]."""
    frequencies = base ** (-jnp.arange(0, width, 2, dtype=jnp.float32) / width)
    return positions.astype(jnp.float32)[..., None] * frequencies
