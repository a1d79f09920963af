"""Attention against its definition written naively, forward and backward."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops


def naive(q, k, v, segment_ids=None):
    """One query at a time, in float64 NumPy."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    segment_ids = None if segment_ids is None else np.asarray(segment_ids)
    B, T, N, H = q.shape
    group = N // k.shape[2]
    out = np.zeros_like(q)
    for b, t, n in np.ndindex(B, T, N):
        seen = np.arange(t + 1)
        if segment_ids is not None:
            seen = seen[segment_ids[b, : t + 1] == segment_ids[b, t]]
        scores = k[b, seen, n // group] @ q[b, t, n] / np.sqrt(H)
        weights = np.exp(scores - scores.max())
        out[b, t, n] = weights @ v[b, seen, n // group] / weights.sum()
    return out


def autodiff(q, k, v, segment_ids=None):
    """The same in plain jax.numpy, for gradients."""
    T, N, H = q.shape[1:]
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(H)
    visible = jnp.tril(jnp.ones((T, T), bool))[None, None]
    if segment_ids is not None:
        visible = visible & (segment_ids[:, None, :, None] == segment_ids[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def draw(T, N, K, B=2, H=8, scale=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(T + N)
    heads = (N, K, K, N)
    draws = (np.float32(scale) * rng.standard_normal((B, T, n, H), np.float32) for n in heads)
    return [x.astype(dtype) for x in draws]


def segments(T, B=2):
    starts = np.random.default_rng(5).random((B, T)) < 0.1
    return np.cumsum(starts, axis=1, dtype=np.int32)


def test_two_positions_by_hand():
    rows = ([1.0, 1.0], [0.0, np.log(3.0)], [4.0, 8.0])
    q, k, v = (np.array(row, np.float32).reshape(1, 2, 1, 1) for row in rows)
    # Position 1 weighs its keys 1 : 3.
    np.testing.assert_allclose(np.ravel(jax.jit(ops.attention)(q, k, v)), [4.0, 7.0], rtol=1e-6)


def value_and_pullback(f):
    """(q, k, v, g, ids) -> (f(q, k, v, ids), the gradients of its product with g), compiled."""

    @jax.jit
    def both(q, k, v, g, ids=None):
        out, pull = jax.vjp(lambda q, k, v: f(q, k, v, ids), q, k, v)
        return out, pull(g)

    return both


ours = value_and_pullback(lambda q, k, v, ids: ops.attention(q, k, v, segment_ids_BT=ids))
plain = value_and_pullback(autodiff)


# Lengths around the query blocks: one block, two, an uneven last one, the most.
@pytest.mark.parametrize(
    ("T", "N", "K", "segmented"),
    [(1, 2, 2, False), (64, 4, 2, False), (65, 3, 1, True), (130, 4, 2, True), (257, 2, 2, False)],
)
def test_equals_the_definition(T, N, K, segmented):
    q, k, v, g = draw(T, N, K)
    ids = segments(T) if segmented else None
    got, gradients = ours(q, k, v, g, ids)
    np.testing.assert_allclose(got, naive(q, k, v, ids), rtol=1e-4, atol=1e-5)
    _, expected = plain(q, k, v, g, ids)
    for one, two in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_large_scores_stay_finite_and_exact():
    q, k, v, g = draw(70, 2, 2, scale=30.0)
    got, gradients = ours(q, k, v, g)
    np.testing.assert_allclose(got, naive(q, k, v), rtol=1e-3, atol=1e-3)
    assert all(np.isfinite(x).all() for x in gradients)


def test_bfloat16_is_close_and_keeps_its_type():
    q, k, v, g = draw(130, 4, 2)
    narrow = [x.astype(jnp.bfloat16) for x in (q, k, v, g)]
    got, gradients = jax.device_get(ours(*narrow))
    expected, wide = jax.device_get(plain(q, k, v, g))
    assert got.dtype == jnp.bfloat16
    np.testing.assert_allclose(got.astype(jnp.float32), expected, rtol=0.05, atol=0.05)
    for one, two in zip(gradients, wide, strict=True):
        assert one.dtype == jnp.bfloat16
        error = np.linalg.norm(one.astype(jnp.float32) - two) / np.linalg.norm(two)
        assert error < 0.02


def test_stacks_under_vmap():
    q, k, v, _ = draw(70, 2, 1)
    stacked = jax.jit(jax.vmap(ops.attention))(*(np.stack([x, 2 * x]) for x in (q, k, v)))
    alone = jax.jit(ops.attention)(2 * q, 2 * k, 2 * v)
    np.testing.assert_allclose(np.asarray(stacked)[1], alone, rtol=1e-5, atol=1e-6)
