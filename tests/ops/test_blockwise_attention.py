"""Blockwise attention against dense attention, forward and backward, and its memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.ops.attention import attention
from gptjax.ops.blockwise_attention import blockwise_attention
from gptjax.ops.fused_attention import splash_attention


def dense(q, k, v, ids=None, window=None, soft_cap=None):
    """The definition, in plain jax.numpy with autodiff's gradient."""
    T, N, H = q.shape[1:]
    k, v = (jnp.repeat(x, N // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(H)
    if soft_cap:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    ago = jnp.arange(T)[:, None] - jnp.arange(T)[None, :]
    visible = (ago >= 0) & (ago < (window or T))
    visible = visible[None, None]
    if ids is not None:
        visible = visible & (ids[:, None, :, None] == ids[:, None, None, :])
    weights = jax.nn.softmax(jnp.where(visible, scores, -jnp.inf), axis=-1)
    return jnp.einsum("bnts,bsnh->btnh", weights, v)


def draw(T, N, K, B=2, H=8, dtype=jnp.float32):
    rng = np.random.default_rng(T + N)
    shapes = [(B, T, N, H), (B, T, K, H), (B, T, K, H), (B, T, N, H)]
    return [rng.standard_normal(shape, np.float32).astype(dtype) for shape in shapes]


def segments(T, B=2):
    starts = np.random.default_rng(5).random((B, T)) < 0.1
    return jax.device_put(np.cumsum(starts, axis=1, dtype=np.int32))


def both(f, q, k, v, g):
    """f(q, k, v) and the gradients of its product with g, in one compiled program."""

    def run(q, k, v, g):
        out, pull = jax.vjp(f, q, k, v)
        return [out, *pull(g)]

    return jax.device_get(jax.jit(run)(q, k, v, g))


# Lengths: below a block, whole blocks, a ragged last block; windows within and across blocks.
CASES = {
    "one short block": (7, 2, 2, {}),
    "whole blocks, grouped": (64, 4, 2, {}),
    "ragged, one key head": (75, 3, 1, {}),
    "segments": (75, 4, 2, {"ids": True}),
    "window of a block": (75, 2, 1, {"window": 16}),
    "window across blocks, segments": (75, 2, 2, {"window": 21, "ids": True}),
    "window of one token": (40, 2, 2, {"window": 1}),
    "soft cap": (75, 2, 1, {"soft_cap": 1.5}),
    "all of it": (75, 4, 2, {"soft_cap": 2.0, "window": 30, "ids": True}),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_dense(name):
    T, N, K, options = CASES[name]
    q, k, v, g = draw(T, N, K)
    ids = segments(T) if options.get("ids") else None
    others = {key: value for key, value in options.items() if key != "ids"}
    blocked = functools.partial(blockwise_attention, segment_ids_BT=ids, block=16, **others)
    got = both(blocked, q, k, v, g)
    expected = both(lambda *x: dense(*x, ids, **others), q, k, v, g)
    for one, two in zip(got, expected, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_equals_jaxs_own_attention():
    q, k, v, g = draw(75, 4, 2)
    theirs = functools.partial(
        jax.nn.dot_product_attention, is_causal=True, local_window_size=(20, 0)
    )
    ours = functools.partial(blockwise_attention, window=21, block=32)
    for one, two in zip(both(ours, q, k, v, g), both(theirs, q, k, v, g), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_equals_the_path_for_short_contexts():
    q, k, v, g = draw(300, 4, 2)
    ours = both(functools.partial(blockwise_attention, block=128), q, k, v, g)
    for one, two in zip(ours, both(attention, q, k, v, g), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


def test_large_scores_stay_finite():
    q, k, v, g = draw(70, 2, 2)
    got = both(functools.partial(blockwise_attention, block=16), 1000 * q, k, v, g)
    assert all(np.isfinite(x).all() for x in got)
    np.testing.assert_allclose(got[0], jax.jit(dense)(1000 * q, k, v), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_narrow_types_are_close_and_kept(dtype):
    wide = draw(75, 4, 2)
    got = both(functools.partial(blockwise_attention, block=32), *(x.astype(dtype) for x in wide))
    for one, two in zip(got, both(dense, *wide), strict=True):
        assert one.dtype == dtype
        error = np.linalg.norm(one.astype(jnp.float32) - two) / np.linalg.norm(two)
        assert error < 0.02


def test_stacks_under_vmap():
    q, k, v, _ = draw(40, 2, 1)
    blocked = jax.jit(functools.partial(blockwise_attention, block=16))
    stacked = jax.jit(jax.vmap(blocked))(*(np.stack([x, 2 * x]) for x in (q, k, v)))
    np.testing.assert_allclose(
        np.asarray(stacked)[1], blocked(2 * q, 2 * k, 2 * v), rtol=1e-5, atol=1e-6
    )


def temporary_bytes(T):
    one = jax.ShapeDtypeStruct((1, T, 2, 16), jnp.float32)
    blocked = functools.partial(blockwise_attention, block=128)
    gradients = jax.jit(lambda q, k, v, g: jax.vjp(blocked, q, k, v)[1](g))
    memory = gradients.lower(one, one, one, one).compile().memory_analysis()
    return memory.temp_size_in_bytes


def test_memory_grows_linearly_with_the_context():
    small, medium, large = (temporary_bytes(T) for T in (1024, 4096, 16384))
    assert medium / small < 4.1
    assert large / medium < 4.1  # dense attention: 16
    scores = 4 * 2 * 16384**2
    assert large < scores / 20


def test_a_window_visits_its_band_only():
    from gptjax.ops.blockwise_attention import _Options, _pairs

    def count(window):
        return len(_pairs(_Options(window, 0.0, 16, 1), 64)[0])

    assert count(0) == 64 * 65 // 2
    assert count(16) == 64 + 63  # the own block and the one before
    assert count(1) == 64


@pytest.mark.parametrize(
    "options", [{}, {"window": 50, "scale": 0.2}, {"soft_cap": 2.0, "ids": True}]
)
def test_splash_attention_in_the_interpreter(options):
    q, k, v, _ = draw(256, 2, 1, B=1, H=128)
    options = dict(options)
    ids = segments(256, 1) if options.pop("ids", None) else None

    @jax.jit
    def run(q, k, v):
        got = splash_attention(q, k, v, segment_ids_BT=ids, interpret=True, **options)
        return got, blockwise_attention(q, k, v, segment_ids_BT=ids, **options)

    got, expected = run(q, k, v)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-5)


def test_splash_attention_and_its_gradient_lower_for_a_tpu():
    one = jax.ShapeDtypeStruct((1, 256, 2, 128), jnp.bfloat16)

    def gradients(q, k, v):
        return jax.grad(lambda *x: jnp.sum(splash_attention(*x)), (0, 1, 2))(q, k, v)

    lowered = jax.jit(gradients).trace(one, one, one).lower(lowering_platforms=("tpu",))
    assert lowered.as_text().count("tpu_custom_call") >= 3  # forward, dQ, dK and dV
