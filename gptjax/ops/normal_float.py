"""NF4: four-bit codes whose levels are quantiles of a normal distribution (Dettmers et al. 2023).

"QLoRA: Efficient Finetuning of Quantized LLMs", arXiv:2305.14314, section 3. A flat vector is
divided into blocks of 64, each divided by its largest magnitude; those magnitudes, less their mean,
are quantized again to 8 bits in blocks of 256 (double quantization).
"""

import functools

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from gptjax.ops.quantization import DECADES, quantize_blocks

BLOCK, NESTED_BLOCK = 64, 256

# QLoRA, appendix E.
LEVELS = np.array(
    [
        -1.0,
        -0.6961928009986877,
        -0.5250730514526367,
        -0.39491748809814453,
        -0.28444138169288635,
        -0.18477343022823334,
        -0.09105003625154495,
        0.0,
        0.07958029955625534,
        0.16093020141124725,
        0.24611230194568634,
        0.33791524171829224,
        0.44070982933044434,
        0.5626170039176941,
        0.7229568362236023,
        1.0,
    ],
    np.float32,
)


def quantize_nf4(
    w_n: Float[Array, "*lead n"],
) -> tuple[UInt8[Array, "*lead j"], Float[Array, "*lead b"]]:
    """(two codes a byte, the first one high; the largest magnitude of each block, float32).

    A number halfway between two levels gets the lower one.
    """
    *lead, n = w_n.shape
    blocks = -(-n // BLOCK)
    filled = jnp.pad(w_n.astype(jnp.float32), [(0, 0)] * len(lead) + [(0, blocks * BLOCK - n)])
    w_bs = filled.reshape(*lead, blocks, BLOCK)
    absmax_b = jnp.max(jnp.abs(w_bs), axis=-1)
    unit_bs = w_bs * (1.0 / jnp.maximum(absmax_b, 1e-38))[..., None]
    bounds = (LEVELS[:-1] + LEVELS[1:]) / np.float32(2)
    codes = jnp.searchsorted(jnp.asarray(bounds), unit_bs, side="left").astype(jnp.uint8)
    codes = codes.reshape(*lead, -1)[..., : n + n % 2]
    return (codes[..., ::2] << 4) | codes[..., 1::2], absmax_b


def dequantize_nf4(
    packed_j: UInt8[Array, "*lead j"], absmax_b: Float[Array, "*lead b"], count: int
) -> Float[Array, "*lead n"]:
    """The first `count` numbers that the codes stand for, float32."""
    *lead, size = packed_j.shape
    both = jnp.stack([packed_j >> 4, packed_j & 15], axis=-1).reshape(*lead, 2 * size)
    unit = jnp.asarray(LEVELS)[both]
    fill = absmax_b.shape[-1] * BLOCK - 2 * size
    unit_bs = jnp.pad(unit, [(0, 0)] * len(lead) + [(0, fill)]).reshape(*lead, -1, BLOCK)
    return (unit_bs * absmax_b[..., None]).reshape(*lead, -1)[..., :count]


def quantize_absmax(
    absmax_b: Float[Array, "*lead b"],
) -> tuple[UInt8[Array, "*lead b"], Float[Array, "*lead c"], Float[Array, "*lead"]]:
    """(codes, largest magnitude of each 256, mean) of magnitudes: the second quantization."""
    *lead, n = absmax_b.shape
    mean = jnp.mean(absmax_b, axis=-1)
    fill = -n % NESTED_BLOCK
    less = jnp.pad(absmax_b - mean[..., None], [(0, 0)] * len(lead) + [(0, fill)])
    codes, nested = quantize_blocks(less.reshape(*lead, -1, NESTED_BLOCK), signed=True)
    return codes.reshape(*lead, -1)[..., :n], nested, mean


def dequantize_absmax(
    codes_b: UInt8[Array, "*lead b"],
    nested_c: Float[Array, "*lead c"],
    mean: Float[Array, "*lead"],
) -> Float[Array, "*lead b"]:
    """The magnitudes that `quantize_absmax` quantized."""
    nested_b = jnp.repeat(nested_c, NESTED_BLOCK, axis=-1)[..., : codes_b.shape[-1]]
    return jnp.asarray(absmax_levels())[codes_b] * nested_b + mean[..., None]


@functools.cache
def absmax_levels() -> np.ndarray:
    """The dynamic tree code with the roundings of float32 that bitsandbytes makes, increasing.

    `dynamic_tree` rounds once at the end: a third of its numbers differ in the last place.
    """
    positive = [np.float32(10.0 ** (i - DECADES + 1)) * _centres(2**i) for i in range(DECADES)]
    sides = [sign * numbers for numbers in positive for sign in (-1, 1)]
    return np.sort(np.concatenate([*sides, [0.0, 1.0]])).astype(np.float32)


def _centres(parts: int) -> np.ndarray:
    """Centres of equal parts of (0.1, 1), each edge counted from its nearer end."""
    low, one, i = np.float32(0.1), np.float32(1.0), np.arange(parts + 1)
    step = np.float64((one - low) / np.float32(parts))
    edges = np.where(i < (parts + 1) // 2, low + step * i, one - step * (parts - i))
    edges = edges.astype(np.float32)
    return (edges[:-1] + edges[1:]) / np.float32(2)
