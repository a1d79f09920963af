"""Precision policies: float16 with a dynamic loss scale, bfloat16 parameters, what stays wide."""

import dataclasses
import itertools

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import ops
from gptjax.train import Hooks, Interrupted, init_state, make_hyper, run
from gptjax.train.feed import next_token_batch
from gptjax.train.mixed_precision import LossScale, next_scale
from gptjax.train.objectives import token_losses

PATTERN = [1, 1, 1, 0, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 1]  # 1: every gradient was finite


def ours(pattern, first, interval):
    zero = jnp.zeros((), jnp.int32)
    scale, values = LossScale(jnp.float32(first), zero, zero), []
    for finite in pattern:
        scale = next_scale(scale, jnp.bool_(finite), interval)
        values.append(float(scale.value))
    return values, int(scale.skips)


def test_the_loss_scale_by_hand():
    values, skips = ours(PATTERN, 8.0, 3)
    assert values == [8, 8, 16, 8, 8, 8, 16, 16, 16, 32, 16, 8, 8, 8, 16]
    assert skips == 3


def test_the_loss_scale_follows_torch():
    torch = pytest.importorskip("torch")
    weight = torch.nn.Parameter(torch.ones(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=3)
    values, skipped = [], 0
    for finite in PATTERN:
        optimizer.zero_grad()
        scaler.scale(weight * (1.0 if finite else float("inf"))).backward()
        before = weight.item()
        scaler.step(optimizer)
        scaler.update()
        skipped += weight.item() == before
        values.append(scaler.get_scale())
    assert ours(PATTERN, 8.0, 3) == (values, skipped)


def half(spec, **changes):
    model = dataclasses.replace(spec.model, compute_dtype="float16")
    return dataclasses.replace(spec, model=model, **changes)


def first_batch(spec, corpus):
    tokens = jnp.asarray(np.asarray(corpus.train[: 4 * 17]).reshape(4, 17), jnp.int32)
    return next_token_batch(spec, tokens[:, :-1], tokens[:, 1:], corpus.end_of_document)


def test_an_overflow_skips_the_step_and_halves_the_scale(spec, corpus):
    wild = half(spec, loss_scale=2.0**40)
    state = compiled_model.init_state(wild, 0)
    step = compiled_model.train_step(wild)
    after, metrics = step(state, first_batch(wild, corpus), make_hyper(wild))
    for one, two in zip(jax.tree.leaves(after.params), jax.tree.leaves(state.params), strict=True):
        assert np.array_equal(one, two)
    assert int(after.step) == 1 and np.isfinite(metrics.loss)
    assert float(metrics.skipped) == float(metrics.extra["optim/overflows"]) == 1
    assert float(metrics.extra["optim/loss_scale"]) == 2.0**39


def test_float16_trains_like_float32_and_resumes_with_its_scale(session, spec, tmp_path):
    spec = dataclasses.replace(spec, steps=60)
    narrow = half(spec, loss_scale=2.0**20, loss_scale_interval=20)
    seen = {}

    def keep(first, values):
        for name in ("optim/loss_scale", "optim/overflows"):
            seen.setdefault(name, []).extend(values[name].tolist())

    result = run(session, narrow, tmp_path / "a", Hooks(metrics=keep))
    wide = run(session, spec, tmp_path / "b", Hooks())
    assert result.skipped_steps > 0
    assert seen["optim/overflows"][-1] == result.skipped_steps
    scales = seen["optim/loss_scale"]
    assert min(scales) < 2.0**20 and 2.0 in {b / a for a, b in itertools.pairwise(scales)}
    assert result.evaluation.loss == pytest.approx(wide.evaluation.loss, rel=0.1)
    calls = []
    with pytest.raises(Interrupted):
        run(session, narrow, tmp_path / "c", Hooks(stop=lambda: calls.append(1) or len(calls) > 1))
    resumed = run(session, narrow, tmp_path / "c", Hooks())
    assert resumed.params_digest == result.params_digest
    assert resumed.skipped_steps == result.skipped_steps


def test_stochastic_rounding_is_right_on_average_and_a_function_of_its_key():
    x = np.array([1.0 + 1 / 512, -3.0 - 1 / 300, 1e-30, 2.0, 0.0], np.float32)
    wild = np.array([np.inf, -np.inf, np.nan], np.float32)

    @jax.jit
    def draw(x, wild, key):
        keys = jax.random.split(key, 20_000)
        drawn = jax.vmap(ops.stochastic_round, (None, 0))(x, keys).astype(jnp.float32)
        once = ops.stochastic_round(x, keys[0]), ops.stochastic_round(wild, keys[0])
        return drawn, *(one.astype(jnp.float32) for one in once)

    drawn, first, odd = jax.device_get(draw(x, wild, jax.random.key(0)))
    gap = np.array([2**-7, 2**-6, 2.0**-107, 0, 0])  # between the two neighbours, at most
    error = np.abs(np.mean(np.asarray(drawn, np.float64), axis=0) - np.asarray(x, np.float64))
    assert np.all(error <= 4 * gap / 2 / np.sqrt(len(drawn)))
    assert len(np.unique(drawn[:, 0])) == 2
    assert np.array_equal(first, drawn[0])
    assert np.isposinf(odd[0]) and np.isneginf(odd[1]) and np.isnan(odd[2])


def test_bfloat16_parameters_learn_and_keep_their_type(session, spec, tmp_path):
    kept = dataclasses.replace(spec, param_dtype="bfloat16", steps=60)
    result = run(session, kept, tmp_path / "a", Hooks())
    wide = run(session, dataclasses.replace(spec, steps=60), tmp_path / "b", Hooks())
    assert result.evaluation.loss == pytest.approx(wide.evaluation.loss, rel=0.1)
    state = session.init(kept)
    state, _ = session.advance(kept, state, make_hyper(kept), 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("bfloat16")}
    again, _ = session.advance(kept, session.init(kept), make_hyper(kept), 3)
    for one, two in zip(jax.tree.leaves(state), jax.tree.leaves(again), strict=True):
        assert np.array_equal(one, two)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_softmax_norms_and_loss_stay_in_float32(spec, corpus, dtype):
    model = dataclasses.replace(spec.model, compute_dtype=dtype, mlp="gelu_tanh")
    narrow = dataclasses.replace(spec, model=model)
    state = jax.eval_shape(lambda: init_state(narrow, jax.random.key(0)))
    batch = first_batch(narrow, corpus)
    jaxpr = jax.make_jaxpr(lambda p: jnp.sum(token_losses(narrow, p, batch)))(state.params)
    found = {}
    for equation in equations(jaxpr.jaxpr):
        found.setdefault(equation.primitive.name, set()).update(
            str(variable.aval.dtype) for variable in equation.outvars
        )
    for name in ("exp", "log", "rsqrt", "reduce_sum", "reduce_max"):
        assert found[name] <= {"float32", "int32"}, (name, found[name])
    assert dtype in found["dot_general"] | found["convert_element_type"]


def equations(jaxpr):
    for equation in jaxpr.eqns:
        yield equation
        for value in equation.params.values():
            inner = getattr(value, "jaxpr", value)
            if hasattr(inner, "eqns"):
                yield from equations(inner)
