"""Batches that grow: stages by hand, a loop of plain steps, and the laws of the other runs."""

import dataclasses
import functools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import data
from gptjax.errors import UserError
from gptjax.optim import OptimConfig, learning_rate, make_optimizer
from gptjax.train import (
    Hooks,
    Interrupted,
    Session,
    TrainConfig,
    batch_warmup,
    make_hyper,
    make_train_step,
    run,
)
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import next_token, token_losses


def growing(spec, **changes):
    """Two doublings over six steps: two steps of four updates, four of two, then whole batches."""
    tokens = 6 * spec.batch_size * spec.model.seq_len
    return dataclasses.replace(
        spec, **{"batch_doublings": 2, "batch_warmup_tokens": tokens, **changes}
    )


def test_stages_by_hand(spec):
    """A line from 1/4 reaches 1/2 after a third of the tokens, and 1 after all of them."""
    grown = growing(spec, batch_size=8, micro_batches=4, steps=10)
    grown = dataclasses.replace(grown, batch_warmup_tokens=6 * 8 * spec.model.seq_len)
    assert batch_warmup.ends(grown) == (2, 6)
    sizes = [(stage.batch_size, stage.micro_batches) for stage in batch_warmup.stages(grown)]
    assert sizes == [(2, 1), (4, 2), (8, 4)]
    assert batch_warmup.updates(grown) == 2 * 4 + 4 * 2 + 4 * 1
    assert grown.tokens == 10 * 8 * spec.model.seq_len
    assert batch_warmup.updates(dataclasses.replace(grown, steps=3)) == 2 * 4 + 1 * 2
    assert batch_warmup.updates(spec) == spec.steps


def test_equals_a_loop_over_smaller_batches(spec, corpus):
    """Gradient descent written out: each batch of the order in parts, each part with its rate."""
    optim = OptimConfig(
        name="sgd",
        b1=0.0,
        learning_rate=0.5,
        schedule="linear",
        warmup_fraction=0.5,
        weight_decay=0.0,
        clip_norm=0.0,
    )
    grown = growing(spec, optim=optim, steps=8, micro_batches=2)
    hyper, eod = make_hyper(grown), corpus.end_of_document
    state = compiled_model.init_state(grown, 1)
    params, step = jax.device_get(state.params), compiled_model.train_step(grown)

    rate_at = jax.jit(functools.partial(learning_rate, optim))

    @jax.jit
    def slope(params, inputs, targets):
        batch = next_token_batch(spec, inputs, targets, eod)

        def mean(params):
            return token_losses(spec, params, batch).sum() / batch.weights_BT.sum()

        return jax.value_and_grad(mean)(params)

    for number in range(8):
        inputs, targets = data.batch_numpy(corpus.train, spec.model.seq_len, 3, number, 4)
        whole = next_token_batch(spec, *map(jnp.asarray, (inputs, targets)), eod)
        state, metrics = step(state, whole, hyper)
        parts = 4 if number < 2 else 2 if number < 6 else 1
        losses = []
        for j in range(parts):
            rows = slice(j * 4 // parts, (j + 1) * 4 // parts)
            loss, grads = jax.device_get(slope(params, inputs[rows], targets[rows]))
            # The schedule counts tokens: the last part of a step has the rate of a whole one.
            at = number + (j + 1) / parts - 1
            rate = rate_at(jnp.float32(at), hyper.total, hyper.peak)
            params = jax.tree.map(lambda w, g, rate=rate: w - np.asarray(rate) * g, params, grads)
            losses.append(float(loss))
        assert float(metrics.loss) == pytest.approx(np.mean(losses), rel=1e-4)
        assert float(metrics.learning_rate) == pytest.approx(float(rate))
    assert int(state.step) == 8
    for one, two in zip(jax.tree.leaves(state.params), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-3, atol=1e-5)


def test_the_optimizer_counts_updates(spec, session):
    grown = growing(spec, steps=8)
    optimizer = make_optimizer(grown.optim)
    state, _ = session.advance(grown, session.init(grown), make_hyper(grown), 8)
    counts = [int(leaf) for leaf in jax.tree.leaves(state.opt_state) if leaf.dtype == jnp.int32]
    assert set(counts) == {batch_warmup.updates(grown)} == {2 * 4 + 4 * 2 + 2}
    assert jax.tree.structure(state.opt_state) == jax.tree.structure(
        jax.eval_shape(optimizer.init, state.params)
    )


@pytest.mark.slow
def test_stop_resume_and_feed_change_no_bit(session, spec, corpus, tmp_path):
    model = dataclasses.replace(spec.model, compute_dtype="float16")
    grown = growing(spec, model=model, param_dtype="bfloat16", loss_scale=2.0**30, steps=12)
    straight = run(session, grown, tmp_path / "a", Hooks())
    calls = []
    hooks = Hooks(stop=lambda: calls.append(1) or len(calls) > 1)
    with pytest.raises(Interrupted):
        run(session, grown, tmp_path / "b", hooks)
    resumed = run(session, grown, tmp_path / "b", Hooks())
    host = run(Session(corpus, TrainConfig(feed="host")), grown, tmp_path / "c", Hooks())
    assert straight.params_digest == resumed.params_digest == host.params_digest
    assert straight.skipped_steps == resumed.skipped_steps > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"batch_size": 6}, r"batch_size=6 cannot be halved train.batch_doublings=2 times; .*=8"),
        (
            {"batch_size": 12, "micro_batches": 3},
            r"micro_batches=3 and the 4 parts .* set train.micro_batches=4",
        ),
        (
            {"noise_scale": True, "micro_batches": 4},
            r"noise_scale=True .* set train.micro_batches=8",
        ),
    ],
)
def test_what_cannot_be_halved_is_refused(spec, changes, sentence):
    with pytest.raises(UserError, match=sentence):
        make_train_step(growing(spec, **changes), next_token(growing(spec, **changes)))
