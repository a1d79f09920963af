"""Ensembles against brute force, scipy's optimizer and hand numbers; soups and what they refuse."""

import dataclasses
import types

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special

from gptjax import models
from gptjax.errors import UserError
from gptjax.infer import ensembles, soups
from gptjax.infer.ensembles import COMBINATIONS, Ensemble, Seen, observe

CONFIG = models.ModelConfig(vocab_size=11, depth=1, width=8, num_heads=2, seq_len=8)


def seen(members=3, n=400, V=7):
    """Members that know the truth more or less, the first of them best after even tokens."""
    rng = np.random.default_rng(0)
    truth_nV = scipy.special.log_softmax(2 * rng.normal(size=(n, V)), axis=-1)
    inputs = rng.integers(0, V, n)
    noise = np.array([0.5, 1.0, 2.0])[:members, None, None] * rng.normal(size=(members, n, V))
    noise[:, inputs % 2 == 1] = noise[::-1, inputs % 2 == 1]
    log_p = scipy.special.log_softmax(truth_nV + noise, axis=-1)
    targets = np.array([rng.choice(V, p=np.exp(row)) for row in truth_nV])
    return Seen(inputs, targets, log_p)


def loss(name, weights, found):
    log_p = jnp.asarray(found.log_p_MnV)[:, None]
    combined = COMBINATIONS[name].combine(log_p, found.inputs_n[None], jnp.asarray(weights))
    total = jnp.exp(combined).sum(axis=-1)
    np.testing.assert_allclose(total, 1.0, rtol=1e-4)
    return -float(np.take_along_axis(combined[0], found.targets_n[:, None], -1).mean())


def test_linear_by_hand():
    log_p = jnp.log(jnp.array([[[[0.2, 0.8]]], [[[0.6, 0.4]]]]))
    combined = ensembles.linear(log_p, None, jnp.array([0.25, 0.75]))
    np.testing.assert_allclose(jnp.exp(combined)[0, 0], [0.5, 0.5], rtol=1e-6)
    by_token = ensembles.linear_by_token(log_p, jnp.array([[1]]), jnp.array([[1, 0], [0.5, 0.5]]))
    np.testing.assert_allclose(jnp.exp(by_token)[0, 0], [0.4, 0.6], rtol=1e-6)


def test_log_linear_by_hand():
    """√(.2·.6) against √(.8·.4)."""
    log_p = jnp.log(jnp.array([[[[0.2, 0.8]]], [[[0.6, 0.4]]]]))
    combined = ensembles.log_linear(log_p, None, jnp.array([0.5, 0.5]))
    both = np.sqrt([0.12, 0.32])
    np.testing.assert_allclose(jnp.exp(combined)[0, 0], both / both.sum(), rtol=1e-6)


@pytest.mark.parametrize("name", ["em", "by_token", "log_linear"])
def test_fitted_weights_beat_the_best_member(name):
    found = seen()
    weights = COMBINATIONS[name].fit(found)
    members = [-float(found.log_p_nM[:, m].mean()) for m in range(3)]
    assert loss(name, weights, found) < min(members)
    plain = np.full_like(weights, 1 / 3)
    assert loss(name, weights, found) <= loss(name, plain, found)


def test_em_finds_the_maximum():
    """The same as a general optimizer over the simplex."""
    found = seen()
    weights = ensembles.em(found)
    p_nM = np.exp(found.log_p_nM)

    def objective(logits):
        return -np.mean(np.log(p_nM @ scipy.special.softmax(logits)))

    best = scipy.optimize.minimize(objective, np.zeros(3), tol=1e-10)
    np.testing.assert_allclose(weights, scipy.special.softmax(best.x), atol=2e-3)
    np.testing.assert_allclose(weights.sum(), 1.0)


def test_weights_from_the_input_find_who_knows_what():
    found = seen()
    weights_VM = ensembles.em_by_token(found)
    assert weights_VM[0::2, 0].min() > weights_VM[1::2, 0].max()
    by_token, overall = loss("by_token", weights_VM, found), loss("em", ensembles.em(found), found)
    assert by_token < overall


def test_newton_finds_the_minimum():
    found = seen()
    log_p = np.asarray(found.log_p_MnV, np.float64)

    def objective(weights):
        scores = np.einsum("m,mnv->nv", weights, log_p)
        return np.mean(scipy.special.logsumexp(scores, axis=-1) - found.log_p_nM @ weights)

    best = scipy.optimize.minimize(objective, np.full(3, 1 / 3), tol=1e-12)
    np.testing.assert_allclose(ensembles.newton(found), best.x, atol=1e-4)


def test_models_are_members():
    keys = jax.random.split(jax.random.key(0))
    deeper = dataclasses.replace(CONFIG, depth=2)
    members = tuple(
        (c, compiled_model.init(c, k)) for c, k in zip((CONFIG, deeper), keys, strict=True)
    )
    windows = np.random.default_rng(0).integers(0, 11, (4, 9))
    found = observe(members, windows)
    ensemble = Ensemble(members, "em", np.array([0.3, 0.7]))
    log_p = ensemble.log_probs(jnp.asarray(windows[:, :-1]))
    wanted = np.log(0.3 * np.exp(found.log_p_MnV[0]) + 0.7 * np.exp(found.log_p_MnV[1]))
    np.testing.assert_allclose(log_p.reshape(-1, 11), wanted, rtol=1e-4)


def test_members_of_other_vocabularies_are_refused():
    other = dataclasses.replace(CONFIG, vocab_size=12)
    with pytest.raises(UserError, match="b has 12 tokens and a 11"):
        ensembles.check_members([(CONFIG, None), (other, None)], ["a", "b"])
    with pytest.raises(UserError, match="name two or more"):
        ensembles.check_members([(CONFIG, None)], ["a"])


def test_soups_by_hand():
    """Losses are |θ − 1|: greedy takes 0.5 and 1.25, and leaves −3."""
    members = [{"w": np.array([x], np.float32)} for x in (0.5, 1.25, -3.0)]

    def distance(params):
        return float(abs(params["w"][0] - 1.0))

    options = types.SimpleNamespace(weights=(1.0, 3.0, 0.0), decay=0.5)
    found = {name: make(members, distance, options) for name, make in soups.SOUPS.items()}
    numbers = {name: float(params["w"][0]) for name, (params, _) in found.items()}
    assert numbers["soup"] == pytest.approx(-1.25 / 3)
    assert numbers["weighted_soup"] == pytest.approx((0.5 + 3.75) / 4)
    assert numbers["ema_soup"] == pytest.approx((0.25 * 0.5 + 0.5 * 1.25 - 3.0) / 1.75)
    assert numbers["greedy_soup"] == pytest.approx(0.875)
    assert found["greedy_soup"][1] == [1.0, 1.0, 0.0]


def test_soups_of_other_shapes_and_unaligned_seeds_are_refused():
    a, b = {"w": np.zeros(3)}, {"w": np.zeros(4)}
    with pytest.raises(UserError, match=r"w is \(4,\) in B and \(3,\) in A"):
        soups.check_shapes([a, b], ["A", "B"])
    with pytest.raises(UserError, match="v is missing in B"):
        soups.check_shapes([{"v": np.zeros(1)}, {}], ["A", "B"])
    soups.check_aligned(1.5, [1.4, 1.6])
    with pytest.raises(UserError, match="not aligned"):
        soups.check_aligned(1.7, [1.4, 1.6])
