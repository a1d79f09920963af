"""The dynamic tree code against a NumPy search over its table, and against bitsandbytes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.ops.quantization import dequantize_blocks, dynamic_tree, quantize_blocks


def test_the_table_by_hand():
    """One number in the lowest decade, two in the next …, 64 between a tenth and one."""
    table = dynamic_tree(True)
    assert len(set(table)) == 256 and (np.diff(table) > 0).all()
    positive = table[table > 0]
    assert positive[0] == pytest.approx(0.55e-6)
    assert positive[1:3].tolist() == pytest.approx([3.25e-6, 7.75e-6])
    assert ((positive > 0.1) & (positive < 1)).sum() == 64 and positive[-1] == 1.0
    np.testing.assert_array_equal(-positive[:-1], table[table < 0][::-1])
    unsigned = dynamic_tree(False)
    assert unsigned[0] == 0.0 and len(set(unsigned)) == 256
    assert unsigned[1:3].tolist() == pytest.approx([3.25e-7, 7.75e-7])


@pytest.mark.parametrize("signed", [True, False])
def test_the_table_equals_bitsandbytes(signed):
    functional = pytest.importorskip("bitsandbytes.functional")
    theirs = functional.create_dynamic_map(signed=signed)
    np.testing.assert_allclose(dynamic_tree(signed), theirs.numpy(), rtol=1e-6)


def numbers(signed: bool) -> np.ndarray:
    """Blocks over many orders of magnitude."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((64, 256)) * 10 ** rng.uniform(-9, 2, (64, 256))
    x[3] = 0.0
    x[4, 7:] = 0.0
    return np.asarray(x if signed else np.abs(x), np.float32)


def test_the_nearest_number_of_the_table():
    """An exhaustive search in float64; where two are equally near, either."""
    for signed in (True, False):
        x = numbers(signed)
        codes, absmax = jax.jit(lambda x, s=signed: quantize_blocks(x, signed=s))(x)
        np.testing.assert_array_equal(absmax, np.abs(x).max(axis=1))
        unit = x / np.maximum(np.asarray(absmax, np.float64)[:, None], 1e-30)
        table = dynamic_tree(signed).astype(np.float64)
        distance = np.abs(unit[..., None] - table)
        found = np.take_along_axis(distance, np.asarray(codes, int)[..., None], -1)[..., 0]
        best = distance.min(-1)
        if not signed:  # a positive number never becomes zero
            tiny = (unit > 0) & (unit < table[1] / 2)
            assert (np.asarray(codes)[tiny] == 1).all() and tiny.any()
            found = np.where(tiny, best, found)
        assert (found <= best + 1e-7 * np.abs(unit) + 1e-12).all()


@pytest.mark.parametrize("signed", [True, False])
def test_numbers_of_the_table_survive(signed):
    table = dynamic_tree(signed)[None] * np.float32(3.0)
    codes, absmax = jax.jit(functools.partial(quantize_blocks, signed=signed))(table)
    np.testing.assert_array_equal(np.asarray(codes)[0], np.arange(256))
    back = jax.jit(functools.partial(dequantize_blocks, signed=signed))(codes, absmax)
    np.testing.assert_allclose(back, table, rtol=1e-6)


def test_stochastic_rounding_keeps_the_mean():
    """Each of 256 numbers is rounded 4000 times; the mean is off by its standard error only.

    Below −0.993 times the largest magnitude there is no number to round to.
    """
    rng = np.random.default_rng(0)
    x = rng.uniform(-0.99, 0.99, (1, 256)) * 10 ** rng.uniform(-3, 0, (1, 256))
    x[0, 0] = 1.0
    x = jnp.asarray(x, jnp.float32)

    @jax.jit
    def rounded(key):
        codes, absmax = quantize_blocks(x, signed=True, key=key)
        return dequantize_blocks(codes, absmax, signed=True)

    samples = np.asarray(jax.lax.map(rounded, jax.random.split(jax.random.key(0), 4000)))[:, 0]
    error = (samples.mean(0) - np.asarray(x[0])) / (samples.std(0) / np.sqrt(4000) + 1e-7)
    assert np.abs(error).max() < 5
    nearest, absmax = quantize_blocks(x, signed=True)
    bias = np.abs(dequantize_blocks(nearest, absmax, signed=True) - x)[0]
    assert np.abs(samples.mean(0) - x[0]).mean() < 0.1 * bias.mean()
