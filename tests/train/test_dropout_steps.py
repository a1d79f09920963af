"""Dropout in training steps: micro-batches, stacks, evaluation, off by default."""

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
from flat_settings import changed

from gptjax import data
from gptjax.optim import OptimConfig
from gptjax.train import make_hyper
from gptjax.train.feed import next_token_batch
from gptjax.train.stack import stacked

RATES = {"dropout.embedding": 0.2, "dropout.attention": 0.2, "dropout.residual": 0.2}


def dropping(spec, **changes):
    return changed(spec, model=changed(spec.model, **RATES), **changes)


def one_step(spec, corpus, **changes):
    state = compiled_model.init_state(spec, 1)
    inputs, targets = data.batch_numpy(corpus.train, 16, 0, 0, spec.batch_size)
    batch = next_token_batch(
        spec, jnp.asarray(inputs), jnp.asarray(targets), corpus.end_of_document
    )
    return compiled_model.train_step(changed(spec, **changes)), (state, batch, make_hyper(spec))


def test_micro_batches_are_one_batch(spec, corpus):
    """Of two layers, each with its own masks; the other tests of steps have one."""
    optim = OptimConfig(name="sgd", b1=0.0, schedule="constant", clip_norm=0.0, weight_decay=0.0)
    spec = dropping(changed(spec, model=changed(spec.model, depth=2)), optim=optim)
    results = []
    for parts in (1, 2):
        step, inputs = one_step(spec, corpus, micro_batches=parts)
        new, metrics = step(*inputs)
        results.append((new.params, metrics.loss))
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)


def test_a_stack_drops_as_its_members_do(spec, session):
    """By each member's seed, and anew in each step."""
    spec = dropping(spec, steps=3)
    seeds = [changed(spec, seed=seed) for seed in (3, 4)]
    state = stacked([session.init(one) for one in seeds])
    hyper = stacked([make_hyper(one) for one in seeds])
    _, metrics = session.advance_stack(spec, state, hyper, 3)
    _, alone = session.advance(seeds[1], session.init(seeds[1]), make_hyper(seeds[1]), 3)
    np.testing.assert_allclose(metrics.loss[1][:3], alone.loss[:3], rtol=1e-4)


def test_steps_in_parts_have_the_same_bits(spec, session):
    """Masks are by seed and step, so a run that was stopped goes on with the same ones."""
    spec = dropping(spec, steps=4)
    whole, _ = session.advance(spec, session.init(spec), make_hyper(spec), 4)
    half, _ = session.advance(spec, session.init(spec), make_hyper(spec), 2)
    half, _ = session.advance(spec, half, make_hyper(spec), 2)
    for one, two in zip(*map(jax.tree.leaves, (whole.params, half.params)), strict=True):
        assert np.array_equal(one, two)


def test_evaluation_drops_nothing(spec, session):
    params = session.init(spec).params
    assert session.evaluate(dropping(spec), params).loss == session.evaluate(spec, params).loss


def test_without_rates_nothing_is_drawn(spec, corpus):
    """The step's program has no random bits, and with rates it has."""
    for one, drawn in ((spec, False), (dropping(spec), True)):
        step, inputs = one_step(one, corpus)
        assert ("threefry" in step.lower(*inputs).as_text()) == drawn
