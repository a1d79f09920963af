"""Norms, activations, positions, losses: numbers by hand, and the shape checker itself."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from gptjax import ops


def test_layer_norm_by_hand():
    # mean 2, variance 2: (0 - 2)/sqrt(2 + 2) = -1, ...
    x, scale, bias = np.array([[0, 2, 2, 4], [1, 1, 2, 3], [0, 0, 0, 1]], np.float32)
    got = jax.jit(functools.partial(ops.layer_norm, eps=2.0))(x, scale, bias)
    np.testing.assert_allclose(got, [-1.0, 0.0, 0.0, 4.0], atol=1e-6)


def test_rms_norm_by_hand():
    got = jax.jit(functools.partial(ops.rms_norm, eps=12.5))(
        *np.array([[3, 4], [1, 2]], np.float32)
    )
    np.testing.assert_allclose(got, [0.6, 1.6], rtol=1e-6)


@pytest.mark.parametrize("norm", [ops.layer_norm, ops.rms_norm])
def test_norms_compute_in_float32(norm):
    x = (1000 + np.random.default_rng(0).standard_normal((4, 64))).astype(jnp.bfloat16)
    ones = np.ones(64, np.float32)
    wide, narrow = jax.jit(norm)(x.astype(np.float32), ones), jax.jit(norm)(x, ones)
    assert narrow.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(narrow, np.float32), wide, rtol=0.01, atol=0.01)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gelu", 0.5 * (1 + math.erf(1 / math.sqrt(2)))),
        ("gelu_tanh", 0.5 * (1 + math.tanh(math.sqrt(2 / math.pi) * 1.044715))),
        ("quick_gelu", 1 / (1 + math.exp(-1.702))),
        ("relu", 1.0),
        ("swiglu", 1 / (1 + math.exp(-1))),
        ("geglu", 0.5 * (1 + math.erf(1 / math.sqrt(2)))),
        ("gegelu", 1 / (1 + math.exp(-1.702))),
    ],
)
def test_activations_at_one(name, expected):
    activation, gated = ops.FEED_FORWARD[name]
    assert float(jax.jit(activation)(np.float32(1.0))) == pytest.approx(expected, abs=1e-6)
    assert gated == (name in ("swiglu", "geglu", "gegelu"))


def test_gates_are_limited_from_above_and_what_they_multiply_on_both_sides():
    gate, up = np.array([[-5.0, 1.0, 5.0, 1.0], [1.0, 5.0, -5.0, 0.5]], np.float32)
    gated = jax.jit(ops.gated, static_argnums=(0, 3))
    sigmoid = 1 / (1 + np.exp(-1.702 * np.array([-5.0, 1.0, 2.0, 1.0])))
    wanted = np.array([-5.0, 1.0, 2.0, 1.0]) * sigmoid * np.array([2.0, 3.0, -1.0, 1.5])
    np.testing.assert_allclose(gated("gegelu", gate, up, 2.0), wanted, rtol=1e-6)
    np.testing.assert_allclose(gated("reglu", gate, up, 2.0), [0, 2, -4, 0.5], rtol=1e-6)
    np.testing.assert_allclose(gated("reglu", gate, up), [0, 5, -25, 0.5], rtol=1e-6)


def test_sinusoids_by_hand():
    got = jax.jit(ops.sinusoids, static_argnums=1)(np.array([0, 3], np.int32), 4)
    expected = [[0, 1, 0, 1], [math.sin(3), math.cos(3), math.sin(0.03), math.cos(0.03)]]
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_rotary_turns_pairs_half_a_head_apart():
    x = np.tile(np.array([1, 0, 0, 2], np.float32), (1, 2, 1, 1))
    turn = jax.jit(functools.partial(ops.rotary, base=100.0))
    got = np.asarray(turn(x, np.array([0, 1], np.int32)))  # angles 1 and 0.1 at position 1
    np.testing.assert_allclose(got[0, 0, 0], [1, 0, 0, 2], atol=1e-6)
    expected = [math.cos(1), -2 * math.sin(0.1), math.sin(1), 2 * math.cos(0.1)]
    np.testing.assert_allclose(got[0, 1, 0], expected, atol=1e-6)


def test_rotary_scores_depend_on_distance_only():
    q, k = np.random.default_rng(0).standard_normal((2, 1, 1, 1, 8), np.float32)
    turn = jax.jit(ops.rotary)

    def score(i, j):
        turned = [np.asarray(turn(x, np.array([at]))) for x, at in ((q, i), (k, j))]
        return float(np.sum(turned[0] * turned[1]))

    assert score(7, 3) == pytest.approx(score(104, 100), abs=1e-4)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_linear_gradients_equal_autodiff_both_ways_round():
    for d, f in ((3, 5), (5, 3)):
        rng = np.random.default_rng(0)
        shapes = [(2, 4, d), (d, f), (f,), (2, 4, f)]
        x, w, b, g = (rng.standard_normal(shape, np.float32) for shape in shapes)
        ours = jax.jit(jax.grad(lambda *a, g=g: jnp.sum(ops.linear(*a) * g), (0, 1, 2)))(x, w, b)
        plain = jax.grad(lambda x, w, b, g=g: jnp.sum((x @ w + b) * g), (0, 1, 2))
        plain = jax.jit(plain)(x, w, b)
        for one, two in zip(ours, plain, strict=True):
            np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_linear_keeps_weight_gradients_wide():
    """512 equal terms: bfloat16 sums would stall at 256."""
    x, w, b = np.ones((512, 2), jnp.bfloat16), np.ones((2, 3), np.float32), np.zeros(3, np.float32)
    total = lambda w, b, x: jnp.sum(ops.linear(x, w, b), dtype=jnp.float32)  # noqa: E731
    dw, db = jax.jit(jax.grad(total, (0, 1)))(w, b, x)
    assert dw.dtype == db.dtype == jnp.float32
    np.testing.assert_array_equal(dw, np.full((2, 3), 512.0))
    np.testing.assert_array_equal(db, np.full(3, 512.0))


def test_cross_entropy_by_hand():
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], np.float32)) + np.float32(7.0)
    got = jax.jit(ops.cross_entropy)(logits, np.array([1, 2], np.int32))
    np.testing.assert_allclose(got, [math.log(4), -math.log(0.8)], rtol=1e-5)


def test_cross_entropy_masks_value_and_gradient():
    logits = np.array([[1e30, -1e30, 0.0], [0.0, 1.0, 2.0]], np.float32)
    targets, mask = np.array([1, 0], np.int32), np.array([False, True])
    loss = jax.value_and_grad(lambda *inputs: jnp.sum(ops.cross_entropy(*inputs)))
    value, gradient = jax.device_get(jax.jit(loss)(logits, targets, mask))
    assert float(value) == pytest.approx(math.log(1 + math.e + math.e**2), rel=1e-6)
    np.testing.assert_array_equal(gradient[0], 0.0)


def test_wrong_shapes_are_caught_under_test():
    with pytest.raises(TypeCheckError):
        ops.layer_norm(jnp.ones((2, 4)), jnp.ones(3))
