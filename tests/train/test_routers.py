"""Router losses in training steps: micro-batches, stacks, evaluation, and what they are for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flat_settings import changed

from gptjax import data
from gptjax.optim import OptimConfig
from gptjax.train import Session, TrainConfig, init_state, make_hyper, make_train_step
from gptjax.train.feed import next_token_batch
from gptjax.train.objectives import next_token
from gptjax.train.stack import stacked

MIXTURE = {
    "depth": 1,
    "width": 16,
    "mlp_pattern": ("experts",),
    "num_experts": 4,
    "expert_width": 16,
    "capacity_factor": 1.25,
    "balance_loss": 0.1,
    "balance_over": "sequence",
    "router_z_loss": 0.01,
}
NAMES = {"dropped_share", "load_max_over_mean", "balance_loss", "router_z_loss", "importance_loss"}
QUICK = {"compiler_options": {"xla_backend_optimization_level": 0}}


def mixture(spec, **changes):
    return changed(spec, model=changed(spec.model, **{**MIXTURE, **changes}))


def test_micro_batches_are_one_batch(spec, corpus):
    """Capacity and balance are of a sequence, noise of its place in the batch."""
    spec = mixture(spec, router_noise=True, load_loss=0.1)
    optim = OptimConfig(name="sgd", b1=0.0, schedule="constant", clip_norm=0.0, weight_decay=0.0)
    spec = changed(spec, optim=optim)
    state = jax.jit(lambda key: init_state(spec, key), **QUICK)(jax.random.key(1))
    inputs, targets = data.batch_numpy(corpus.train, 16, 0, 0, spec.batch_size)
    batch = next_token_batch(
        spec, jnp.asarray(inputs), jnp.asarray(targets), corpus.end_of_document
    )
    results = []
    for parts in (1, 2):
        step = make_train_step(changed(spec, micro_batches=parts), next_token(spec))
        new, metrics = jax.jit(step, **QUICK)(state, batch, make_hyper(spec))
        extra = {k: v for k, v in metrics.extra.items() if "load_max" not in k}
        results.append((new.params, metrics.loss, extra))
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    names = {f"experts/{name}" for name in NAMES} | {"experts/load_loss"}
    assert metrics.extra.keys() == names
    assert 0 < float(extra["experts/dropped_share"]) < 0.6


def test_a_stack_reports_each_member(spec, corpus):
    spec = changed(mixture(spec), steps=3)
    session = Session(corpus, TrainConfig())
    seeds = [changed(spec, seed=seed) for seed in (3, 4)]
    state = stacked([session.init(one) for one in seeds])
    hyper = stacked([make_hyper(one) for one in seeds])
    _, metrics = session.advance_stack(spec, state, hyper, 3)
    assert metrics.extra.keys() == {f"experts/{name}" for name in NAMES}
    _, alone = session.advance(seeds[1], session.init(seeds[1]), make_hyper(seeds[1]), 3)
    for name, value in alone.extra.items():
        np.testing.assert_allclose(metrics.extra[name][1][:3], value[:3], rtol=1e-4, atol=1e-6)


def test_evaluation_is_the_plain_loss(spec, corpus):
    """Neither losses nor drops nor noise are in it."""
    spec = mixture(spec, router_noise=True)
    session = Session(corpus, TrainConfig())
    params = session.init(spec).params
    bare = {"capacity_factor": 0.0, "balance_loss": 0.0, "router_z_loss": 0.0}
    plain = changed(spec, model=changed(spec.model, **bare, router_noise=False))
    assert session.evaluate(spec, params).loss == session.evaluate(plain, params).loss


@pytest.mark.slow
def test_a_balance_loss_keeps_the_load_even(spec, corpus):
    """The fullest expert's load over the mean, late in the same run with and without it."""
    loads = {}
    for weight in (0.0, 0.1):  # measured: 2.48 and 1.31
        one = mixture(spec, depth=2, experts_per_token=1, router="softmax")
        one = changed(one, batch_size=8, steps=120, model=changed(one.model, balance_loss=weight))
        session = Session(corpus, TrainConfig())
        _, metrics = session.advance(one, session.init(one), make_hyper(one), 120)
        loads[weight] = np.asarray(metrics.extra["experts/load_max_over_mean"])[80:120].mean()
    assert loads[0.1] < 1.5 < loads[0.0]
