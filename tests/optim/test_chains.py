"""Schedules by hand, AdamW against a NumPy loop, decay by path."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.optim import SCHEDULES, OptimConfig, decay_mask, learning_rate, make_optimizer


def rates(total: int, **settings) -> np.ndarray:
    config = OptimConfig(**settings)
    steps = jnp.arange(total)
    return np.asarray(learning_rate(config, steps, jnp.int32(total), jnp.float32(2.0)))


def test_cosine_by_hand():
    found = rates(100, schedule="cosine", warmup_fraction=0.1, final_fraction=0.1)
    assert found[0] == pytest.approx(0.2)  # a tenth of the warm-up
    assert found[9] == pytest.approx(2.0)  # the peak, at the last warm-up step
    assert found[54] == pytest.approx(0.2 + 1.8 * 0.5)  # half way down: (1 + cos π/2)/2
    assert found[99] == pytest.approx(0.2)  # exactly η_min at the last token


def test_linear_constant_and_inverse_sqrt_by_hand():
    linear = rates(100, schedule="linear", warmup_fraction=0.1, final_fraction=0.0)
    assert linear[54] == pytest.approx(1.0)
    assert linear[99] == pytest.approx(0.0, abs=1e-7)
    constant = rates(100, schedule="constant", warmup_fraction=0.1)
    np.testing.assert_allclose(constant[9:], 2.0)
    inverse = rates(100, schedule="inverse_sqrt", warmup_fraction=0.04)
    assert inverse[3] == pytest.approx(2.0)
    assert inverse[15] == pytest.approx(1.0)  # four times the warm-up: half the peak


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_steps_of_warmup_may_be_traced(schedule):
    """One program for warm-ups of 7 and of 10 steps, each with the bits of its own."""
    steps, peak = jnp.arange(100), jnp.float32(2.0)

    def of(warmup):
        return functools.partial(learning_rate, OptimConfig(schedule=schedule, warmup_steps=warmup))

    shared = jax.jit(of(1))
    for warmup in (7, 10):
        own = jax.jit(of(warmup))(steps, jnp.int32(100), peak)
        assert own[warmup - 1] == 2.0 and own[warmup - 2] == pytest.approx(2.0 - 2.0 / warmup)
        assert (shared(steps, jnp.int32(100), peak, jnp.int32(warmup)) == own).all()
    fraction = OptimConfig(schedule=schedule, warmup_fraction=0.2)
    assert learning_rate(fraction, 9, 100, peak, jnp.int32(0)) == pytest.approx(1.0)


def test_wsd_is_flat_then_falls_as_one_minus_root():
    found = rates(100, schedule="wsd", warmup_fraction=0.1, decay_fraction=0.2, final_fraction=0.0)
    np.testing.assert_allclose(found[9:80], 2.0)
    assert found[84] == pytest.approx(2.0 * (1 - np.sqrt(5 / 20)))
    assert found[99] == pytest.approx(0.0, abs=1e-6)


def test_a_run_of_one_step_has_a_rate():
    for schedule in ("cosine", "wsd", "linear", "constant", "inverse_sqrt"):
        assert np.isfinite(rates(1, schedule=schedule)).all()


def test_adamw_equals_a_numpy_loop():
    """Loshchilov & Hutter 2019, algorithm 2: decoupled decay, bias-corrected moments."""
    config = OptimConfig(clip_norm=0.0, weight_decay=0.1, no_decay=())
    optimizer = make_optimizer(config)
    rng = np.random.default_rng(0)
    w = rng.standard_normal(5).astype(np.float32)
    params, expected = {"w": jnp.asarray(w)}, w.astype(np.float64)
    state = optimizer.init(params)
    m = v = np.zeros(5)
    for t in range(1, 6):
        grad = rng.standard_normal(5).astype(np.float32)
        updates, state = optimizer.update(
            {"w": jnp.asarray(grad)}, state, params, learning_rate=0.01
        )
        params = jax.tree.map(jnp.add, params, updates)
        m = 0.9 * m + 0.1 * grad
        v = 0.95 * v + 0.05 * grad**2
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.95**t)) + 1e-8)
        expected = expected - 0.01 * (step + 0.1 * expected)
    np.testing.assert_allclose(params["w"], expected, rtol=2e-5)


def test_clipping_scales_to_the_global_norm():
    config = OptimConfig(clip_norm=1.0, weight_decay=0.0, b1=0.0, b2=0.0, eps=1e30)
    optimizer = make_optimizer(config)
    params = {"a": jnp.zeros(1), "b": jnp.zeros(1)}
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    updates, _ = optimizer.update(grads, optimizer.init(params), params, learning_rate=1.0)
    # With an ε this large Adam is g/ε: the clipped gradient shows through.
    np.testing.assert_allclose(updates["a"] * 1e30, -0.6, rtol=1e-5)
    np.testing.assert_allclose(updates["b"] * 1e30, -0.8, rtol=1e-5)


def test_decay_rule_spares_norms_biases_and_embeddings():
    params = {
        "embed": {"tokens": 0},
        "blocks": {"attention": {"query": 0, "query_bias": 0}, "mlp_norm": {"scale": 0}},
        "head": 0,
    }
    mask = decay_mask(params, OptimConfig().no_decay)
    assert mask == {
        "embed": {"tokens": False},
        "blocks": {"attention": {"query": True, "query_bias": False}, "mlp_norm": {"scale": False}},
        "head": True,
    }
