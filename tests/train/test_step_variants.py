"""Steps that take other gradients, leave themselves out, or average what they visit."""

import dataclasses
import functools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import data
from gptjax.optim import OptimConfig, eval_params, make_optimizer
from gptjax.train import Diverged, Hooks, init_state, make_hyper, run
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import adversarial_shift, token_losses

PLAIN = OptimConfig(
    name="sgd",
    b1=0.0,
    learning_rate=0.1,
    schedule="constant",
    warmup_fraction=0.0,
    weight_decay=0.0,
    clip_norm=0.0,
)


def with_optim(spec, **changes):
    return dataclasses.replace(spec, optim=dataclasses.replace(PLAIN, **changes))


@pytest.fixture(scope="module")
def batch(spec, corpus):
    inputs, targets = data.batch_numpy(corpus.train, spec.model.seq_len, 0, 0, spec.batch_size)
    return next_token_batch(spec, jnp.asarray(inputs), jnp.asarray(targets), corpus.end_of_document)


@pytest.fixture(scope="module")
def start(spec):
    """Initial weights and the state of plain gradient descent."""
    return compiled_model.init_state(with_optim(spec), 1)


step_of = compiled_model.train_step


@functools.partial(jax.jit, static_argnums=0)
def mean_loss(spec, params, batch, shift=None):
    return token_losses(spec, params, batch, shift).sum() / batch.weights_BT.sum()


def test_sam_takes_the_gradient_where_the_first_one_led(spec, batch, start):
    sam = with_optim(spec, sam_rho=0.3)
    found, metrics = step_of(sam)(start, batch, make_hyper(sam))
    gradient = jax.jit(jax.grad(lambda params: mean_loss(spec, params, batch)))
    first = gradient(start.params)
    norm = np.float32(np.sqrt(sum(np.sum(np.square(g)) for g in jax.tree.leaves(first))))
    weights, first = (jax.tree.map(np.asarray, tree) for tree in (start.params, first))
    there = jax.tree.map(lambda w, g: w + np.float32(0.3) * g / norm, weights, first)
    second = jax.tree.map(np.asarray, gradient(there))
    expected = jax.tree.map(lambda w, g: w - np.float32(0.1) * g, weights, second)
    for a, b in zip(jax.tree.leaves(found.params), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)
    # The loss that is reported is the one at the weights themselves.
    assert float(metrics.loss) == pytest.approx(float(mean_loss(spec, start.params, batch)))


def test_micro_batches_change_nothing(spec, batch, start):
    """Though each finds its own adversary, and the climb is along the whole batch's gradient."""
    spec = with_optim(spec, sam_rho=0.3, adversarial_epsilon=0.5)
    whole, _ = step_of(spec)(start, batch, make_hyper(spec))
    parts, _ = step_of(dataclasses.replace(spec, micro_batches=2))(start, batch, make_hyper(spec))
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)


shift_of = jax.jit(adversarial_shift, static_argnums=0)


def test_the_adversary_raises_the_loss_more_than_chance(spec, batch, start):
    spec = with_optim(spec, adversarial_epsilon=0.5)
    shift = shift_of(spec, start.params, batch)
    np.testing.assert_allclose(jnp.sqrt((shift**2).sum(axis=(1, 2))), 0.5, rtol=1e-5)
    clean = mean_loss(spec, start.params, batch)
    attacked = mean_loss(spec, start.params, batch, shift)
    for seed in range(5):
        noise = np.random.default_rng(seed).normal(size=shift.shape).astype("float32")
        noise = 0.5 * noise / np.sqrt((noise**2).sum(axis=(1, 2), keepdims=True))
        by_chance = mean_loss(spec, start.params, batch, noise)
        assert attacked - clean > 3 * abs(by_chance - clean)


def test_adversarial_step_descends_at_the_shift(spec, batch, start):
    spec = with_optim(spec, adversarial_epsilon=0.5)
    found, metrics = step_of(spec)(start, batch, make_hyper(spec))
    shift = shift_of(spec, start.params, batch)
    both = jax.jit(jax.value_and_grad(lambda p: mean_loss(spec, p, batch, shift)))
    loss, grads = both(start.params)
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-5)
    for a, w, g in zip(*map(jax.tree.leaves, (found.params, start.params, grads)), strict=True):
        np.testing.assert_allclose(a, w - 0.1 * g, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "changes",
    [pytest.param({"sam_rho": 0.3}, marks=pytest.mark.slow), {"adversarial_epsilon": 0.5}],
    ids=str,
)
def test_the_cost_is_what_the_compiler_counts(spec, batch, start, changes):
    """At a width where matrix products dominate."""
    model = dataclasses.replace(spec.model, width=128, num_heads=2, layers="unroll")
    costs = []
    for more in ({}, changes):
        one = dataclasses.replace(with_optim(spec, **more), model=model)
        state = jax.eval_shape(lambda one=one: init_state(one, jax.random.key(0)))
        compiled = step_of(one).lower(state, batch, make_hyper(one)).compile()
        costs.append(compiled.cost_analysis()["flops"])
    optim = with_optim(spec, **changes).optim
    assert costs[1] / costs[0] == pytest.approx(optim.cost, rel=0.05)


def test_a_step_that_is_not_finite_is_left_out(spec, batch, start):
    spec = with_optim(spec, skip_not_finite=2, ema_decay=0.5)
    state, step = compiled_model.init_state(spec, 1), step_of(spec)
    bad = dataclasses.replace(batch, weights_BT=batch.weights_BT * jnp.nan)
    kept, skipped = state, []
    for one in (bad, bad, batch, bad):
        kept, metrics = step(kept, one, make_hyper(spec))
        skipped.append(float(metrics.skipped))
    assert skipped == [1, 1, 0, 1]
    only, _ = step(state, batch, make_hyper(spec))
    for a, b in zip(jax.tree.leaves(kept.params), jax.tree.leaves(only.params), strict=True):
        np.testing.assert_array_equal(a, b)
    for one in (bad, bad):  # with the one before, three in a row: one more than allowed
        kept, metrics = step(kept, one, make_hyper(spec))
    assert float(metrics.skipped) == 0 and not np.isfinite(jax.tree.leaves(kept.params)[0]).any()


def test_a_run_that_does_not_recover_is_given_up(session, spec, tmp_path):
    spec = with_optim(spec, learning_rate=1e30, skip_not_finite=3)
    with pytest.raises(Diverged, match="training loss"):
        run(session, spec, tmp_path, Hooks())


def test_skips_are_logged_and_counted(session, spec, tmp_path):
    seen = []
    hooks = Hooks(metrics=lambda step, values: seen.append(values))
    result = run(session, with_optim(spec, skip_not_finite=3), tmp_path, hooks)
    assert result.skipped_steps == 0
    assert sum(map(len, (values["optim/skipped"] for values in seen))) == spec.steps


def test_the_average_of_the_weights_by_hand():
    """At 1, 2, 3 with decay ½: (1·⅛ + 2·¼ + 3·½)/(⅛ + ¼ + ½)."""
    config = dataclasses.replace(PLAIN, ema_decay=0.5)
    optimizer = make_optimizer(config)
    params = {"w": jnp.zeros(1)}
    state = optimizer.init(params)
    np.testing.assert_array_equal(eval_params(state, params)["w"], [0.0])
    for _ in range(3):
        updates, state = optimizer.update({"w": -jnp.ones(1)}, state, params, learning_rate=1.0)
        params = jax.tree.map(jnp.add, params, updates)
    np.testing.assert_allclose(eval_params(state, params)["w"], [(1 / 8 + 2 / 4 + 3 / 2) / (7 / 8)])


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"ema_decay": 0.9}, marks=pytest.mark.slow),
        {"name": "schedule_free", "b1": 0.9},
    ],
    ids=str,
)
def test_evaluations_see_the_average(session, spec, tmp_path, changes):
    spec = with_optim(spec, learning_rate=0.02, **changes)
    result = run(session, spec, tmp_path, Hooks())
    state, _ = session.advance(spec, session.init(spec), make_hyper(spec), spec.steps)
    averaged = session.evaluate(spec, eval_params(state.opt_state, state.params))
    last = session.evaluate(spec, state.params)
    assert result.evaluation.loss == averaged.loss != last.loss


def test_multipliers_multiply(spec, start):
    config = dataclasses.replace(PLAIN, multipliers=("mlp=3", "up$=0.5", "embed=0"))
    optimizer = make_optimizer(config)
    ones = jax.tree.map(lambda x: np.ones(x.shape, np.float32), start.params)
    update = jax.jit(lambda g: optimizer.update(g, optimizer.init(g), g, learning_rate=1.0)[0])
    updates = update(ones)
    blocks = updates["blocks"]
    assert (blocks["mlp"]["down"] == -3).all() and (blocks["mlp"]["up"] == -1.5).all()
    assert (blocks["attention"]["out"] == -1).all() and (updates["embed"]["tokens"] == 0).all()
