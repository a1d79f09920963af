"""Routing, mixtures of experts and selective scans against loops in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops


def draw(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


route = jax.jit(functools.partial(ops.route, renormalise=True), static_argnums=1)


def test_routing_by_hand():
    logits = jnp.log(jnp.array([[0.1, 0.4, 0.2, 0.3], [0.25, 0.05, 0.6, 0.1]]))
    weights, experts = ops.route(logits, 2, renormalise=True)
    assert experts.tolist() == [[1, 3], [2, 0]]
    np.testing.assert_allclose(weights, [[4 / 7, 3 / 7], [0.6 / 0.85, 0.25 / 0.85]], rtol=1e-6)
    weights, _ = ops.route(logits, 2, renormalise=False, scale=2.0)
    np.testing.assert_allclose(weights, [[0.8, 0.6], [1.2, 0.5]], rtol=1e-6)
    # One group of two: the second token may use experts 2 and 3 only.
    weights, experts = ops.route(logits, 2, renormalise=False, groups=2, top_groups=1)
    assert experts.tolist() == [[1, 0], [2, 3]]
    np.testing.assert_allclose(weights, [[0.4, 0.1], [0.6, 0.1]], rtol=1e-6)


@pytest.mark.parametrize("gated", [True, False])
def test_a_mixture_is_a_loop_over_tokens(gated):
    M, D, F, E, k = 9, 4, 5, 3, 2
    x, up, down = draw(M, D), draw(E, D, F, seed=1), draw(E, F, D, seed=2)
    gate = draw(E, D, F, seed=3) if gated else None
    weights, experts = route(draw(M, E, seed=4), k)
    chosen = np.asarray(experts)

    def ours(x, up, gate, down):
        def feed_forward(x_SD, sizes_E):
            h = ops.ragged_product(x_SD, up, sizes_E)
            h = jnp.tanh(ops.ragged_product(x_SD, gate, sizes_E)) * h if gated else jnp.tanh(h)
            return ops.ragged_product(h, down, sizes_E)

        return ops.mix_experts(x, weights, experts, E, feed_forward)

    def naive(x, up, gate, down):
        rows = []
        for m in range(M):
            row = jnp.zeros(D)
            for w, e in zip(weights[m], chosen[m].tolist(), strict=True):
                h = x[m] @ up[e]
                h = jnp.tanh(x[m] @ gate[e]) * h if gated else jnp.tanh(h)
                row = row + w * (h @ down[e])
            rows.append(row)
        return jnp.stack(rows)

    g = draw(M, D, seed=5)

    def both(mixed):
        def weighed(*arguments):
            y = mixed(*arguments)
            return jnp.sum(y * g), y

        return jax.value_and_grad(weighed, argnums=(0, 1, 3), has_aux=True)(x, up, gate, down)

    (got, wanted) = jax.jit(lambda: (both(ours), both(naive)))()
    np.testing.assert_allclose(got[0][1], wanted[0][1], rtol=1e-5, atol=1e-5)
    for one, two in zip(got[1], wanted[1], strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_experts_alike_are_one_feed_forward():
    x, up, down = draw(6, 4), draw(4, 5, seed=1), draw(5, 4, seed=2)
    weights, experts = route(draw(6, 3, seed=4), 2)
    alike = functools.partial(jnp.broadcast_to, shape=(3, 4, 5))
    downs = jnp.broadcast_to(down, (3, 5, 4))

    def feed_forward(x_SD, sizes_E):
        h = ops.relu(ops.ragged_product(x_SD, alike(up), sizes_E))
        return ops.ragged_product(h, downs, sizes_E)

    got = jax.jit(lambda: ops.mix_experts(x, weights, experts, 3, feed_forward))()
    wanted = np.maximum(np.asarray(x) @ np.asarray(up), 0) @ np.asarray(down)
    np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)


def scan_inputs(B=2, T=11, I=3, Z=4):
    step = jnp.asarray(np.logaddexp(draw(B, T, I, seed=1), np.float32(0)))
    a = jnp.asarray(-np.exp(draw(I, Z, seed=2)))
    return draw(B, T, I), step, a, draw(B, T, Z, seed=3), draw(B, T, Z, seed=4)


SCANS = pytest.mark.parametrize("scan", [ops.selective_scan, ops.selective_scan_in_turn])


@SCANS
def test_the_scan_is_its_recurrence(scan):
    x, step, a, b, c = scan_inputs()
    got = jax.jit(scan)(x, step, a, b, c)
    one_step = jax.jit(ops.selective_step)
    h = jnp.zeros((2, 3, 4))
    state = np.zeros((2, 3, 4))
    for t in range(x.shape[1]):
        y, h = one_step(h, x[:, t], step[:, t], a, b[:, t], c[:, t])
        decay = np.exp(np.asarray(step)[:, t, :, None] * np.asarray(a))
        pushed = np.asarray(step * x)[:, t, :, None] * np.asarray(b)[:, t, None, :]
        state = decay * state + pushed
        np.testing.assert_allclose(
            y, (state * np.asarray(c)[:, t, None]).sum(-1), rtol=1e-4, atol=1e-5
        )
        np.testing.assert_allclose(got[:, t], y, rtol=1e-4, atol=1e-5)


@SCANS
def test_segments_begin_with_an_empty_state(scan):
    x, step, a, b, c = scan_inputs()
    ids = jnp.array([[0] * 4 + [1] * 7, [0] * 9 + [3] * 2])
    w, bias = draw(3, 3, seed=6), draw(3, seed=7)
    parts = [(0, slice(0, 4)), (0, slice(4, 11)), (1, slice(0, 9)), (1, slice(9, 11))]

    @jax.jit
    def run():
        """(with segments, each part alone) of the scan and of the convolution."""
        scanned, convolved = [], []
        for row, part in parts:
            x_, step_, b_, c_ = (v[row : row + 1, part] for v in (x, step, b, c))
            scanned.append(scan(x_, step_, a, b_, c_)[0])
            convolved.append(ops.causal_convolution(x_, w, bias)[0])
        whole = scan(x, step, a, b, c, segment_ids_BT=ids)
        return (whole, scanned), (ops.causal_convolution(x, w, bias, segment_ids_BT=ids), convolved)

    for whole, alone in run():
        for (row, part), one in zip(parts, alone, strict=True):
            np.testing.assert_allclose(whole[row, part], one, rtol=1e-4, atol=1e-5)


def test_both_scans_have_the_same_gradients():
    inputs = scan_inputs()
    ids = jnp.array([[0] * 4 + [1] * 7, [0] * 9 + [3] * 2])

    def gradients(scan):
        loss = lambda *args: jnp.sum(jnp.sin(scan(*args, segment_ids_BT=ids)))  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=range(5)))(*inputs)

    for one, two in zip(*map(gradients, SCANS.args[1]), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_convolution_by_hand():
    x = jnp.array([1.0, 2.0, 4.0]).reshape(1, 3, 1)
    w = jnp.array([[100.0], [10.0], [1.0]])
    got = ops.causal_convolution(x, w, jnp.array([0.5]))
    assert got.ravel().tolist() == [1.5, 12.5, 124.5]
