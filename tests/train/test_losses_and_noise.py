"""Training losses in chunks and with penalties; the gradient noise scale; memory policies."""

import dataclasses

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gptjax.cost import memory
from gptjax.errors import UserError
from gptjax.train import Hooks, gradient_noise, make_hyper, run
from gptjax.train.feed import next_token_batch


def one_step(spec, corpus):
    tokens = jnp.asarray(np.asarray(corpus.train[: 4 * 17]).reshape(4, 17), jnp.int32)
    batch = next_token_batch(spec, tokens[:, :-1], tokens[:, 1:], corpus.end_of_document)
    state = compiled_model.init_state(spec, 0)
    return compiled_model.train_step(spec)(state, batch, make_hyper(spec))


@pytest.mark.parametrize(
    "penalties",
    [pytest.param({}, marks=pytest.mark.slow), {"z_loss": 0.01, "label_smoothing": 0.1}],
    ids=str,
)
def test_chunks_give_the_same_step(spec, corpus, penalties):
    model = dataclasses.replace(spec.model, logit_soft_cap=3.0, logit_scale=0.9)
    spec = dataclasses.replace(spec, model=model, mask_end_of_document=True, **penalties)
    plain, metrics = one_step(spec, corpus)
    chunked, others = one_step(dataclasses.replace(spec, loss_chunk=24), corpus)
    assert float(metrics.loss) == pytest.approx(float(others.loss), rel=1e-6)
    assert float(metrics.grad_norm) == pytest.approx(float(others.grad_norm), rel=1e-5)
    for one, two in zip(
        jax.tree.leaves(plain.opt_state), jax.tree.leaves(chunked.opt_state), strict=True
    ):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-7)


def test_penalties_change_the_gradient_and_not_the_reported_loss(spec, corpus):
    _, plain = one_step(spec, corpus)
    for penalty in ({"z_loss": 0.1}, {"label_smoothing": 0.2}):
        _, other = one_step(dataclasses.replace(spec, **penalty), corpus)
        assert float(other.loss) == pytest.approx(float(plain.loss), rel=1e-6)
        assert float(other.grad_norm) != pytest.approx(float(plain.grad_norm), rel=1e-3)


def test_noise_estimates_are_unbiased_on_a_known_problem():
    """Gradients of single examples are drawn with mean g and covariance diag(s²)."""
    rng = np.random.default_rng(0)
    g, s = np.array([0.3, -0.4, 0.1]), np.array([1.0, 2.0, 0.5])
    batch, parts, draws = 32, 8, 4000
    examples = g + s * rng.standard_normal((draws, parts, batch // parts, 3))
    micro = examples.mean(axis=2)
    small = np.mean(np.sum(micro**2, axis=-1), axis=1)
    big = np.sum(micro.mean(axis=1) ** 2, axis=-1)
    found = gradient_noise.estimate(jnp.asarray(small), jnp.asarray(big), batch / parts, batch)
    for values, truth in ((found.square, np.sum(g**2)), (found.trace, np.sum(s**2))):
        error = np.std(values) / np.sqrt(draws)
        assert abs(float(np.mean(values)) - truth) < 4 * error
        assert 4 * error < 0.1 * truth  # so that the test could fail


def test_noise_of_a_step_is_that_of_its_micro_batches_gradients(spec, corpus):
    spec = dataclasses.replace(spec, micro_batches=4, noise_scale=True)
    _, metrics = one_step(spec, corpus)
    single = dataclasses.replace(spec, batch_size=1, micro_batches=1, noise_scale=False)
    squares = []
    for i in range(4):
        row = jnp.asarray(np.asarray(corpus.train[i * 17 : (i + 1) * 17])[None], jnp.int32)
        batch = next_token_batch(single, row[:, :-1], row[:, 1:], corpus.end_of_document)
        state = compiled_model.init_state(single, 0)
        _, one = compiled_model.train_step(single)(state, batch, make_hyper(single))
        squares.append(float(one.grad_norm) ** 2)
    big = float(metrics.grad_norm) ** 2
    expected = gradient_noise.estimate(jnp.float32(np.mean(squares)), jnp.float32(big), 1, 4)
    trace, square = (float(metrics.extra[f"optim/noise_{n}"]) for n in ("trace", "square"))
    assert trace == pytest.approx(float(expected.trace), rel=1e-3)
    assert square == pytest.approx(float(expected.square), rel=1e-3)


def test_the_noise_scale_reaches_the_result(session, spec, tmp_path):
    asked = dataclasses.replace(spec, micro_batches=4, noise_scale=True)
    result = run(session, asked, tmp_path / "a", Hooks())
    assert result.noise_scale_tokens is not None and np.isfinite(result.noise_scale_tokens)
    plain = run(session, spec, tmp_path / "b", Hooks())
    assert plain.noise_scale_tokens is None
    assert plain.evaluation.loss == pytest.approx(result.evaluation.loss, rel=1e-3)


def test_auto_takes_the_cheapest_policy_that_fits(spec, monkeypatch):
    needed = {"none": 8, "dots": 6, "block": 3, "sqrt": 2}
    monkeypatch.setattr(
        memory, "compiled_bytes", lambda spec: (needed[spec.model.remat] * 2**30, 0)
    )
    spec = dataclasses.replace(spec, model=dataclasses.replace(spec.model, remat="auto"))
    for budget, expected in ((9, "none"), (6, "dots"), (5.9, "block"), (2, "sqrt")):
        assert memory.resolve_remat(spec, budget).model.remat == expected
    with pytest.raises(
        UserError, match=r"memory_gb=1 is too little .* 2 GiB with model.remat=sqrt"
    ):
        memory.resolve_remat(spec, 1)


def test_a_steps_bytes_are_the_compilers(spec):
    model = dataclasses.replace(spec.model, depth=6, seq_len=64, layers="scan")
    plain = dataclasses.replace(spec, model=model, batch_size=32)
    kept = dataclasses.replace(plain, model=dataclasses.replace(model, remat="block"))
    (all_, temporary), (fewer, _) = memory.compiled_bytes(plain), memory.compiled_bytes(kept)
    assert all_ > temporary > fewer - (all_ - temporary) > 0
