"""Frozen parameters, and an optimizer that is registered from outside the package."""

import dataclasses

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import fields
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OPTIMIZERS, OptimConfig, Optimizer, eval_params, trainable, validate
from gptjax.train import RunSpec, init_state, make_hyper, make_train_step, next_token
from gptjax.train.feed import next_token_batch

MODEL = ModelConfig(
    depth=2, width=16, num_heads=2, seq_len=16, vocab_size=32, positions="rotary", use_bias=False
)
FROZEN = (r"embed", r"mlp/")


def spec_of(**optim):
    return RunSpec(MODEL, OptimConfig(**{"learning_rate": 1e-2, **optim}), batch_size=4, steps=8)


def trained(spec, steps=3):
    tokens = np.random.default_rng(1).integers(0, 32, (4, 17), np.int32)

    @jax.jit
    def step(state, tokens, hyper):
        batch = next_token_batch(spec, tokens[:, :-1], tokens[:, 1:], -1)
        return make_train_step(spec, next_token(spec))(state, batch, hyper)

    start = state = compiled_model.init_state(spec)
    for _ in range(steps):
        state, metrics = step(state, tokens, make_hyper(spec))
    start, state = jax.device_get((start, state))
    return start, state, metrics


@pytest.mark.parametrize(
    "optim", [{}, {"ema_decay": 0.9}, {"name": "schedule_free"}, {"sam_rho": 0.1}], ids=str
)
def test_frozen_leaves_keep_their_bits_and_have_no_state(optim):
    spec = spec_of(frozen=FROZEN, **optim)
    start, state, _ = trained(spec)
    inside = jax.tree.leaves(trainable(start.params, FROZEN))
    evaluated = jax.jit(eval_params)(state.opt_state, state.params)
    for (path, old), new, held in zip(
        jax.tree_util.tree_leaves_with_path(start.params),
        jax.tree.leaves(state.params),
        jax.tree.leaves(evaluated),
        strict=True,
    ):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        frozen = "embed" in name or "mlp/" in name
        assert np.array_equal(old, new) == frozen == np.array_equal(old, held), name
    shapes = {leaf.shape for leaf in inside}
    kept = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert {leaf.shape for leaf in kept} <= shapes
    assert sum(leaf.size for leaf in kept) % sum(leaf.size for leaf in inside) == 0


def test_the_gradient_norm_is_that_of_what_is_trained():
    free = spec_of(clip_norm=0.0)
    _, _, whole = trained(free, steps=1)
    _, _, part = trained(spec_of(clip_norm=0.0, frozen=FROZEN), steps=1)
    assert 0.0 < float(part.grad_norm) < float(whole.grad_norm)
    assert float(part.loss) == float(whole.loss)


def test_half_precision_parameters_stay_too():
    spec = dataclasses.replace(spec_of(frozen=(r"embed",)), param_dtype="bfloat16")
    start, state, _ = trained(spec)
    for a, b in zip(*(jax.tree.leaves(s.params["embed"]) for s in (start, state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_expressions_that_freeze_nothing_or_everything_are_refused():
    with pytest.raises(UserError, match=r"optim.frozen has 'encoder', which matches no parameter"):
        jax.eval_shape(lambda: init_state(spec_of(frozen=("encoder",)), jax.random.key(0)))
    with pytest.raises(UserError, match=r"nothing is left to train"):
        jax.eval_shape(lambda: init_state(spec_of(frozen=("",)), jax.random.key(0)))
    with pytest.raises(UserError, match=r"optim.frozen has '\(', which is no regular expression"):
        validate(OptimConfig(frozen=("(",)))


@pytest.fixture
def sign_descent(monkeypatch):
    """An optimizer from outside: the sign of the gradient (Bernstein et al. 2018)."""
    base = Optimizer(lambda config: optax.stateless(lambda g, _: jax.tree.map(jnp.sign, g)))
    monkeypatch.setitem(OPTIMIZERS, "sign", base)


def test_an_optimizer_from_outside_trains_through_a_config(sign_descent):
    config = fields.make(
        OptimConfig, {"name": "sign", "learning_rate": 0.01, "weight_decay": 0.0}, "optim"
    )
    validate(config)
    start, state, metrics = trained(dataclasses.replace(spec_of(), optim=config), steps=1)
    moved = jax.tree.map(lambda a, b: np.max(np.abs(a - b)), start.params, state.params)
    for size in jax.tree.leaves(moved):
        assert float(size) == pytest.approx(float(metrics.learning_rate), rel=1e-3)


def test_without_registration_its_name_is_refused():
    with pytest.raises(UserError, match=r"optim.name='sign' is not known"):
        fields.make(OptimConfig, {"name": "sign"}, "optim")
