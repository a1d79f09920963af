"""Objectives and feeds from outside the package, through the step of every run."""

import dataclasses
import functools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.optim import OptimConfig
from gptjax.train import (
    Batch,
    Hooks,
    Objective,
    Session,
    Terms,
    TokenFeed,
    TrainConfig,
    make_hyper,
    make_train_step,
    next_token,
    run,
)

SGD = OptimConfig(
    name="sgd",
    b1=0.0,
    learning_rate=0.1,
    schedule="constant",
    warmup_fraction=0.0,
    weight_decay=0.0,
    clip_norm=0.0,
)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """Answers of which the first is preferred, and how much each pair counts."""

    better_BT: jax.Array
    worse_BT: jax.Array
    weights_B: jax.Array


def ranking(spec):
    """Bradley-Terry: −log σ(score(better) − score(worse)); a score is a logit at the last token."""

    def score(params, tokens_BT):
        return compiled_model.apply(spec.model, params, tokens_BT)[:, -1, 0]

    def terms(params, batch, seeds_B):
        margin_B = score(params, batch.better_BT) - score(params, batch.worse_BT)
        right = jnp.sum(batch.weights_B * (margin_B > 0))
        loss = -jnp.sum(batch.weights_B * jax.nn.log_sigmoid(margin_B))
        return Terms(loss, {"align/accuracy": right})

    return Objective(terms, count=lambda batch: jnp.sum(batch.weights_B), names=("align/accuracy",))


def pairs(spec):
    rows = jax.random.randint(jax.random.key(5), (2, 4, spec.model.seq_len), 0, 256)
    return Pairs(rows[0], rows[1], jnp.asarray([1.0, 0.5, 2.0, 3.0]))


@functools.cache
def step_of(spec, objective_of):
    return jax.jit(make_train_step(spec, objective_of(spec)))


def steps_of(spec, objective_of, batch, count=1):
    state = compiled_model.init_state(spec, 1)
    step = step_of(spec, objective_of)
    for _ in range(count):
        state, metrics = step(state, batch, make_hyper(spec))
    return state, metrics


def test_a_ranking_loss_takes_the_step_that_its_gradient_says(spec):
    spec = dataclasses.replace(spec, optim=SGD)
    objective, batch = ranking(spec), pairs(spec)
    start = compiled_model.init_state(spec, 1).params

    @jax.jit
    @jax.value_and_grad
    def mean(params):
        total, count, _ = objective(params, batch)
        return total / count

    loss, grads = mean(start)
    state, metrics = steps_of(spec, ranking, batch)
    assert float(metrics.loss) == pytest.approx(float(loss), rel=1e-6)
    for new, old, grad in zip(*map(jax.tree.leaves, (state.params, start, grads)), strict=True):
        np.testing.assert_allclose(new, old - 0.1 * grad, rtol=1e-4, atol=1e-7)


def test_micro_batches_of_unequal_weight_are_one_batch(spec):
    """Weights 1.5 and 5 in the two halves: a mean of the halves' means would be another number."""
    spec = dataclasses.replace(spec, optim=SGD)
    batch = pairs(spec)
    whole, one = steps_of(spec, ranking, batch)
    parts, two = steps_of(dataclasses.replace(spec, micro_batches=2), ranking, batch)
    assert float(one.loss) == pytest.approx(float(two.loss), rel=1e-6)
    accuracy = "align/accuracy"
    assert float(one.extra[accuracy]) == pytest.approx(float(two.extra[accuracy]), rel=1e-6)
    for a, b in zip(*map(jax.tree.leaves, (whole.params, parts.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7)


def test_a_ranking_loss_is_learned(spec):
    _, metrics = steps_of(spec, ranking, pairs(spec), count=15)
    assert float(metrics.extra["align/accuracy"]) == 1.0 and float(metrics.loss) < 0.1


class AnswersOnly(TokenFeed):
    """Windows whose first half is a prompt."""

    def batch(self, spec, rows):
        batch = super().batch(spec, rows)
        answer_T = jnp.arange(spec.model.seq_len) >= spec.model.seq_len // 2
        return dataclasses.replace(batch, weights_BT=batch.weights_BT * answer_T)


def test_a_feed_with_weights_on_answers_only(spec, corpus, tmp_path):
    """The loss that the first step reports is the mean over the answers, computed by hand."""
    seen = {}
    hooks = Hooks(metrics=lambda step, values: seen.setdefault(step, values["train/loss_nats"]))
    session = Session(corpus, TrainConfig(), feed=AnswersOnly(corpus))
    run(session, dataclasses.replace(spec, steps=2), tmp_path, hooks)
    (inputs, targets) = next(TokenFeed(corpus).stream(spec, 0))
    params = session.init(spec).params
    logits = np.asarray(compiled_model.apply(spec.model, params, jnp.asarray(inputs)), np.float64)
    top = logits.max(axis=-1)
    log_z = np.log(np.exp(logits - top[..., None]).sum(axis=-1)) + top
    picked = np.take_along_axis(logits, targets[..., None].astype(int), axis=-1)[..., 0]
    half = spec.model.seq_len // 2
    assert float(seen[0][0]) == pytest.approx((log_z - picked)[:, half:].mean(), rel=1e-5)


def test_prompts_leave_no_trace_in_the_gradient(spec):
    """Other targets where nothing is scored give the same step, bit for bit."""
    tokens = jax.random.randint(jax.random.key(2), (4, spec.model.seq_len + 1), 0, 256)
    answer_T = (jnp.arange(spec.model.seq_len) >= 8).astype(jnp.float32)
    weights = jnp.broadcast_to(answer_T, (4, spec.model.seq_len))
    batch = Batch(tokens[:, :-1], tokens[:, 1:], weights)
    other = dataclasses.replace(batch, targets_BT=batch.targets_BT * (weights > 0).astype(int))
    one, _ = steps_of(spec, next_token, batch)
    two, _ = steps_of(spec, next_token, other)
    for a, b in zip(*map(jax.tree.leaves, (one.params, two.params)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_packed_sequence_is_its_texts_apart(spec):
    """Two texts in one row, by document numbers and positions, have the losses of one row each."""
    T, first = spec.model.seq_len, 6
    tokens = jax.random.randint(jax.random.key(3), (1, T + 1), 0, 256)
    place_T = jnp.arange(T)
    packed = Batch(
        tokens[:, :-1],
        tokens[:, 1:],
        (place_T != first - 1).astype(jnp.float32)[None],  # its target is another text's
        segment_ids_BT=(place_T >= first).astype(int)[None],
        positions_BT=jnp.where(place_T < first, place_T, place_T - first)[None],
    )
    model = dataclasses.replace(spec.model, positions="learned")
    spec = dataclasses.replace(spec, model=model)
    params = compiled_model.init_state(spec, 1).params

    def alone(start, end):
        part = jax.tree.map(lambda x: x[:, start:end], packed)
        part = dataclasses.replace(part, segment_ids_BT=None, positions_BT=None)
        return compiled_model.token_losses(spec, params, part)

    apart = jnp.concatenate([alone(0, first), alone(first, T)], axis=1)
    np.testing.assert_allclose(compiled_model.token_losses(spec, params, packed), apart, rtol=1e-5)
