"""Affine quantization and NF4: hand numbers, bounds, and the storage of torch and bitsandbytes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops
from gptjax.ops.normal_float import absmax_levels


def weights(I, O, seed=0, scale=0.02):
    drawn = np.random.default_rng(seed).standard_normal((I, O), np.float32)
    return jax.device_put(np.float32(scale) * drawn)


def rounded(w_IO, bits, group, whole=False):
    w_GSO = ops.in_groups(w_IO, group)
    scale, zero = ops.affine_grid(w_GSO, bits, whole=whole)
    codes = ops.to_codes(w_GSO, scale, zero, bits)
    values = ops.from_codes(codes, scale, zero).reshape(-1, w_IO.shape[1])[: len(w_IO)]
    return codes, scale, zero, values


compiled = jax.jit(rounded, static_argnums=(1, 2))
"""As one program, which rounds divisions by constants otherwise than torch does."""


def test_two_bits_by_hand():
    """(max − min)/3 = 1 and zero = 1: −1, 0, 1.4, 2 are 0, 1, 2, 3."""
    w_IO = np.array([[-1.0], [0.0], [1.4], [2.0]], np.float32)
    codes, scale, zero, values = map(np.asarray, compiled(w_IO, 2, 4))
    assert (float(scale[0, 0]), int(zero[0, 0])) == (1.0, 1)
    assert codes.reshape(-1)[:4].tolist() == [0, 1, 2, 3]
    assert values[:, 0].tolist() == [-1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize("bits", ops.BITS)
def test_the_error_is_at_most_a_step(bits):
    """Half a step inside the range, and half a step more where the zero point was rounded."""
    w_IO = weights(24, 5)
    _, scale, _, values = compiled(w_IO, bits, 8)
    step_IO = np.repeat(np.asarray(scale), 8, axis=0)[:24]
    error = np.abs(np.asarray(values) - np.asarray(w_IO)) / step_IO
    assert error.max() <= 1.0001
    assert np.mean(error <= 0.5001) > 0.9


@pytest.mark.parametrize("bits", ops.BITS)
def test_packed_codes_come_back(bits):
    codes = np.random.default_rng(bits).integers(0, 2**bits, (2, 16, 3), np.uint8)
    packed = jax.jit(ops.pack_codes, static_argnums=1)(codes, bits)
    assert packed.shape == (2, 2 * bits, 3)
    unpacked = jax.jit(ops.unpack_codes, static_argnums=1)(packed, bits)
    np.testing.assert_array_equal(unpacked, codes)


def test_integer_product_is_the_product_of_the_rounded():
    w_IO, x_TI = weights(20, 6), np.random.default_rng(3).standard_normal((4, 20), np.float32)
    codes, scale, zero, values = compiled(w_IO, 8, 8)
    step_T1 = np.abs(x_TI).max(axis=1, keepdims=True) / 127
    wanted = (np.round(x_TI / step_T1) * step_T1) @ np.asarray(values)
    found = jax.jit(ops.integer_product)(x_TI, codes, scale, zero)
    np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_codes_are_those_of_torch():
    torch = pytest.importorskip("torch")
    w_IO = weights(64, 10)
    codes, scale, zero, values = rounded(w_IO, 8, 64)
    theirs = torch.quantize_per_channel(
        torch.tensor(np.asarray(w_IO).T.copy()),
        torch.tensor(np.asarray(scale[0]).astype(np.float64)),
        torch.tensor(np.asarray(zero[0]).astype(np.int64)),
        0,
        torch.quint8,
    )
    np.testing.assert_array_equal(theirs.int_repr().numpy().T, np.asarray(codes)[0])
    np.testing.assert_array_equal(theirs.dequantize().numpy().T, np.asarray(values))
    observer = torch.ao.quantization.PerChannelMinMaxObserver(
        ch_axis=0, dtype=torch.quint8, qscheme=torch.per_channel_affine
    )
    observer(torch.tensor(np.asarray(w_IO).T.copy()))
    their_scale, their_zero = observer.calculate_qparams()
    np.testing.assert_allclose(their_scale.numpy(), np.asarray(scale[0]), rtol=1e-6)
    np.testing.assert_array_equal(their_zero.numpy(), np.asarray(zero[0]))


def test_whole_tensors_are_those_of_torch():
    torch = pytest.importorskip("torch")
    w_IO = weights(16, 6)
    codes, scale, zero, _ = rounded(w_IO, 8, 16, whole=True)
    assert scale.shape == zero.shape == (1, 1)
    w = torch.tensor(np.asarray(w_IO))
    theirs = torch.quantize_per_tensor(w, float(scale[0, 0]), int(zero[0, 0]), torch.quint8)
    np.testing.assert_array_equal(theirs.int_repr().numpy(), np.asarray(codes)[0])


def test_nf4_by_hand():
    """The largest is 1 and has code 15; zero has code 7; a half rounds to 0.4407 or 0.5626."""
    quantize = jax.jit(ops.quantize_nf4)
    packed, absmax = quantize(np.array([2.0, 0.0, -2.0, 1.0], np.float32))
    assert absmax.tolist() == [2.0]
    assert packed.tolist() == [15 * 16 + 7, 0 * 16 + 12]
    back = jax.jit(ops.dequantize_nf4, static_argnums=2)(packed, absmax, 4)
    np.testing.assert_allclose(back, [2.0, 0.0, -2.0, 2 * 0.44070982933044434], rtol=1e-7)


@pytest.mark.parametrize("count", [64 * 300, 64 * 5 + 30, 768 * 64])
def test_nf4_is_that_of_bitsandbytes(count):
    """Codes and magnitudes bit for bit; what was read from their storage too."""
    functional = pytest.importorskip("bitsandbytes.functional")
    torch = pytest.importorskip("torch")
    w = np.random.default_rng(count).normal(size=count).astype(np.float32) * 0.02
    theirs, state = functional.quantize_4bit(torch.tensor(w), quant_type="nf4")
    packed, absmax = ops.quantize_nf4(jnp.asarray(w))
    np.testing.assert_array_equal(packed, theirs[:, 0].numpy())
    np.testing.assert_array_equal(absmax, state.absmax.numpy())
    theirs, state = functional.quantize_4bit(
        torch.tensor(w), quant_type="nf4", compress_statistics=True
    )
    nested = (state.absmax, state.state2.absmax, state.offset)
    back = ops.dequantize_absmax(*(jnp.asarray(part.numpy()) for part in nested))
    mine = ops.dequantize_nf4(packed, back, count)
    np.testing.assert_array_equal(mine, functional.dequantize_4bit(theirs, state).numpy().ravel())


def test_double_quantization_is_that_of_bitsandbytes():
    """The nearest level in every place; their CPU library takes the next one beside a midpoint."""
    functional = pytest.importorskip("bitsandbytes.functional")
    torch = pytest.importorskip("torch")
    levels = functional.create_dynamic_map().numpy()
    np.testing.assert_array_equal(absmax_levels(), levels)
    w = np.random.default_rng(0).normal(size=64 * 1000).astype(np.float32) * 0.02
    _, state = functional.quantize_4bit(torch.tensor(w), quant_type="nf4", compress_statistics=True)
    _, absmax = ops.quantize_nf4(jnp.asarray(w))
    codes, nested, mean = (np.asarray(x) for x in ops.quantize_absmax(absmax))
    np.testing.assert_allclose(mean, state.offset.item(), rtol=2e-7)
    np.testing.assert_allclose(nested, state.state2.absmax.numpy(), rtol=1e-5)
    theirs = state.absmax.numpy()
    differ = codes != theirs
    assert differ.mean() < 0.005
    unit = (np.asarray(absmax) - mean) / np.repeat(nested, 256)[: len(codes)]
    ours, other = np.abs(levels[codes] - unit), np.abs(levels[theirs] - unit)
    assert np.all(ours[differ] <= other[differ] + 1e-6)
