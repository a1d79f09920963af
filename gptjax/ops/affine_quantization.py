"""Affine quantization: integers of 2 to 8 bits with a scale and a zero point for each group.

A matrix [I, O] is divided into groups of S consecutive inputs of one output, so that a large weight
coarsens no others but those of its group. The last group is filled up with zeros where S does not
divide I, which changes nothing: the range of every group includes zero.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

BITS = range(2, 9)
"""Bits of a code."""

PARTS = (8, 4, 2, 1)
"""Bits of the parts that a packed code consists of."""


def padded_inputs(inputs: int, group: int) -> int:
    """Rows of the codes: whole groups, and whole bytes of one-bit parts.

    >>> padded_inputs(100, 64), padded_inputs(12, 12)
    (128, 24)
    """
    return math.lcm(group, 8) * math.ceil(inputs / math.lcm(group, 8))


def in_groups(w_IO: Float[Array, "*lead I O"], group: int) -> Float[Array, "*lead G S O"]:
    """The groups of `group` inputs, zeros after the last input."""
    *lead, I, O = w_IO.shape
    rows = padded_inputs(I, group)
    filled = jnp.pad(w_IO, [(0, 0)] * len(lead) + [(0, rows - I), (0, 0)])
    return filled.reshape(*lead, rows // group, group, O)


def affine_grid(
    w_GSO: Float[Array, "*lead G S O"], bits: int, *, whole: bool = False
) -> tuple[Float[Array, "*lead G P"], UInt8[Array, "*lead G P"]]:
    """(scale, zero point) of each group: (max − min)/(2^bits − 1) and round(−min/scale).

    The range is widened to include 0, so that 0 has a code of its own and the zero point fits a
    code: Jacob et al. (2018), arXiv:1712.05877, equation 1, as `torch` does it.

    Args:
      whole: one range for all of the matrix: P = G = 1.
    """
    axes = (-3, -2, -1) if whole else (-2,)
    low = jnp.minimum(jnp.min(w_GSO, axis=axes), 0.0)
    high = jnp.maximum(jnp.max(w_GSO, axis=axes), 0.0)
    if whole:
        low, high = low[..., None, None], high[..., None, None]
    scale = (high - low) / (2**bits - 1)
    scale = jnp.where(scale > 0.0, scale, 1.0)  # a group of zeros
    zero = jnp.clip(jnp.round(-low / scale), 0, 2**bits - 1)
    return scale.astype(jnp.float32), zero.astype(jnp.uint8)


def to_codes(
    w_GSO: Float[Array, "*lead G S O"],
    scale_GP: Float[Array, "*lead g P"],
    zero_GP: UInt8[Array, "*lead g P"],
    bits: int,
) -> UInt8[Array, "*lead G S O"]:
    """round(w/scale) + zero point, halves to even, within 0…2^bits − 1."""
    places = jnp.round(w_GSO / scale_GP[..., None, :]) + zero_GP[..., None, :].astype(w_GSO.dtype)
    return jnp.clip(places, 0, 2**bits - 1).astype(jnp.uint8)


def from_codes(
    codes_GSO: UInt8[Array, "*lead G S O"],
    scale_GP: Float[Array, "*lead g P"],
    zero_GP: UInt8[Array, "*lead g P"],
) -> Float[Array, "*lead G S O"]:
    """(code − zero point)·scale, float32."""
    places = codes_GSO.astype(jnp.float32) - zero_GP[..., None, :].astype(jnp.float32)
    return places * scale_GP[..., None, :].astype(jnp.float32)


def pack_codes(codes_IO: UInt8[Array, "*lead I O"], bits: int) -> UInt8[Array, "*lead J O"]:
    """Codes in I·bits/8 bytes of each output, I a multiple of 8.

    A code is split into parts of 8, 4, 2 or 1 bits, the largest lowest (3 = 2 + 1); the rows of a
    part are cut into as many runs as it has places in a byte, and run i lies i places up.
    """
    found, done = [], 0
    for part in (part for part in PARTS if bits & part):
        places, one = 8 // part, jnp.uint8(2**part - 1)
        cut = jnp.split((codes_IO >> jnp.uint8(done)) & one, places, axis=-2)
        found.append(sum((run << jnp.uint8(part * i) for i, run in enumerate(cut)), jnp.uint8(0)))
        done += part
    return jnp.concatenate(found, axis=-2).astype(jnp.uint8)


def unpack_codes(packed_JO: UInt8[Array, "*lead J O"], bits: int) -> UInt8[Array, "*lead I O"]:
    """The codes that `pack_codes` packed."""
    rows, start, done = packed_JO.shape[-2] * 8 // bits, 0, 0
    codes: jax.Array = jnp.zeros((*packed_JO.shape[:-2], rows, packed_JO.shape[-1]), jnp.uint8)
    for part in (part for part in PARTS if bits & part):
        size, one = rows * part // 8, jnp.uint8(2**part - 1)
        held = packed_JO[..., start : start + size, :]
        runs = [(held >> jnp.uint8(part * i)) & one for i in range(8 // part)]
        codes = codes | (jnp.concatenate(runs, axis=-2) << jnp.uint8(done))
        start, done = start + size, done + part
    return codes


def integer_product(
    x_TI: Float[Array, "*batch I"],
    codes_GSO: UInt8[Array, "G S O"],
    scale_GP: Float[Array, "g P"],
    zero_GP: UInt8[Array, "g P"],
) -> Float[Array, "*batch O"]:
    """x·w in integers: each token's x in 8 bits by its largest magnitude, sums in int32, float32.

    Dettmers et al., "LLM.int8()" (2022), section 2.1, without outliers, and with the zero points of
    w: y = Σ_g scale_g·(Σ q·code − zero_g·Σ q)·max|x|/127.
    """
    *batch, I = x_TI.shape
    G, S, _ = codes_GSO.shape
    x_TI = x_TI.astype(jnp.float32)
    step_T1 = jnp.maximum(jnp.max(jnp.abs(x_TI), axis=-1, keepdims=True), 1e-30) / 127.0
    q_TI = jnp.pad(jnp.round(x_TI / step_T1), [(0, 0)] * len(batch) + [(0, G * S - I)])
    q_MGS = q_TI.astype(jnp.int8).reshape(-1, G, S)
    signed_GSO = (codes_GSO.astype(jnp.int16) - 128).astype(jnp.int8)
    sums_MGO = jnp.einsum("mgs,gso->mgo", q_MGS, signed_GSO, preferred_element_type=jnp.int32)
    zero_GP = zero_GP.astype(jnp.int32) - 128
    sums_MGO = sums_MGO - jnp.sum(q_MGS, axis=-1, dtype=jnp.int32)[..., None] * zero_GP
    y_MO = jnp.sum(sums_MGO.astype(jnp.float32) * scale_GP.astype(jnp.float32), axis=1)
    return y_MO.reshape(*batch, -1) * step_T1
