"""Eight-bit numbers in blocks, by the dynamic tree code of Dettmers et al. (2022).

arXiv:2110.02861, section 2: a number in [−1, 1] is a power of ten from 1e-6 to 1 and a fraction
with the more levels the larger the power, so that large numbers are exact to 1 % and small ones
still have seven orders of magnitude. Each block is divided by its largest magnitude first.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, UInt8

BLOCK = 256
DECADES = 7


@functools.cache
def dynamic_tree(signed: bool) -> np.ndarray:
    """The 256 numbers that the codes stand for, increasing, float32.

    Decade i holds 2^i numbers of each sign, or 2^(i+1) where there is no sign: the centres of equal
    parts of (0.1, 1)·10^(i−6). Zero and one fill the 256.

    >>> [float(f"{value:.4g}") for value in dynamic_tree(True)[[0, 127, 128, 255]]]
    [-0.993, 0.0, 5.5e-07, 1.0]
    """
    positive = np.concatenate([_decade(i, signed) for i in range(DECADES)])
    negative = -positive if signed else positive[:0]
    return np.sort(np.concatenate([negative, positive, [0.0, 1.0]])).astype(np.float32)


def _levels(i: int, signed: bool) -> int:
    return 2**i if signed else 2 ** (i + 1)


def _decade(i: int, signed: bool) -> np.ndarray:
    """The positive numbers of one decade, float64."""
    levels = _levels(i, signed)
    return 10.0 ** (i - DECADES + 1) * (0.1 + 0.9 * (np.arange(levels) + 0.5) / levels)


def zero_code(signed: bool) -> int:
    """The code of zero."""
    return 127 if signed else 0


def quantize_blocks(
    x: Float[Array, "*slices n B"], *, signed: bool, key: Key[Array, ""] | None = None
) -> tuple[UInt8[Array, "*slices n B"], Float[Array, "*slices n"]]:
    """Codes of the nearest numbers, and the largest magnitude of each block (the last axis).

    Args:
      x: float32; not negative where `signed` is False. Without a sign a positive number is never
        coded as zero, because second moments divide.
      key: where given, round to one of the two neighbours at random, so that the mean is kept.
    """
    absmax = jnp.max(jnp.abs(x), axis=-1)
    unit = x * (1.0 / jnp.maximum(absmax, jnp.finfo(jnp.float32).tiny))[..., None]
    codes = _nearest(unit, signed)
    if key is not None:
        codes = _to_a_neighbour(unit, codes, signed, key)
    if not signed:
        codes = jnp.where(x > 0.0, jnp.maximum(codes, 1), codes)
    return codes.astype(jnp.uint8), absmax


def dequantize_blocks(
    codes: UInt8[Array, "*slices n B"], absmax: Float[Array, "*slices n"], *, signed: bool
) -> Float[Array, "*slices n B"]:
    """The float32 numbers that the codes and magnitudes stand for."""
    return jnp.asarray(dynamic_tree(signed))[codes] * absmax[..., None]


def _nearest(unit: jax.Array, signed: bool) -> jax.Array:
    """int32 codes of the numbers nearest to `unit` in [−1, 1], by arithmetic: no search, no table.

    Inside a decade the numbers are evenly spaced, so the decade and one multiplication give the
    rank of a magnitude among them; zero has rank 0.
    """
    size = jnp.abs(unit)
    decades = [_decade(i, signed) for i in range(DECADES)]
    slope = jnp.full_like(size, _slope(0, signed))
    levels = jnp.full_like(size, _levels(0, signed))
    for i in range(1, DECADES):
        beyond = size > (decades[i - 1][-1] + decades[i][0]) / 2
        slope = jnp.where(beyond, _slope(i, signed), slope)
        levels = jnp.where(beyond, _levels(i, signed), levels)
    place = jnp.clip(jnp.floor(size * slope - levels / 9.0), 0.0, levels - 1.0)
    # A decade of n levels comes after n − (levels of the first) others and zero.
    rank = (place + levels).astype(jnp.int32) + (1 - _levels(0, signed))
    rank = jnp.where(size > decades[0][0] / 2, rank, 0)
    if signed:
        rank = jnp.where(unit < 0.0, -rank, rank) + zero_code(signed)
    return rank + (unit > (decades[-1][-1] + 1.0) / 2)


def _slope(i: int, signed: bool) -> float:
    """Ranks per unit of magnitude in decade i."""
    return 10.0 ** (DECADES - 1 - i) * _levels(i, signed) / 0.9


def _to_a_neighbour(unit: jax.Array, codes: jax.Array, signed: bool, key: jax.Array) -> jax.Array:
    """Move from the nearest code towards `unit`, with the probability that keeps the mean."""
    table = jnp.asarray(dynamic_tree(signed))
    error = unit - table[codes]
    other = jnp.clip(codes + jnp.sign(error).astype(jnp.int32), 0, 255)
    gap = jnp.abs(table[other] - table[codes])
    move = jax.random.uniform(key, unit.shape) * gap < jnp.abs(error)
    return jnp.where(move, other, codes)
