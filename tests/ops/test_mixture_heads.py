"""Mixture heads: brute force, the rank that one softmax cannot have, and scikit-learn's mixture."""

import jax
import numpy as np
import pytest
import scipy.special
import scipy.stats

from gptjax import ops


def normal(*shape, seed=0):
    """For functions under jit alone."""
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


softmaxes, gaussians = jax.jit(ops.mixture_of_softmaxes), jax.jit(ops.gaussian_mixture)


def test_mixture_of_softmaxes_by_brute_force():
    x, gate, project, head = normal(5, 4), normal(4, 3), normal(4, 3, 4, seed=1), normal(4, 7)
    weights = scipy.special.softmax(x @ gate, axis=-1)
    wanted = np.zeros((5, 7))
    for k in range(3):
        logits = np.tanh(np.asarray(x @ project[:, k])) @ np.asarray(head)
        wanted += weights[:, k, None] * scipy.special.softmax(logits, axis=-1)
    found = softmaxes(x, gate, project, head)
    np.testing.assert_allclose(np.exp(found), wanted, rtol=1e-4, atol=1e-6)


def rank(log_p):
    """Of the logits up to a constant of each row."""
    values = np.linalg.svd(np.asarray(log_p - log_p.mean(axis=-1, keepdims=True)), compute_uv=False)
    return int(np.sum(values > 1e-3 * values[0]))


def test_its_rank_is_above_the_width():
    x, head = 2 * normal(40, 4), normal(4, 30, seed=2)
    one = softmaxes(x, normal(4, 1), 2 * normal(4, 1, 4, seed=1), head)
    three = softmaxes(x, 2 * normal(4, 3), 2 * normal(4, 3, 4, seed=1), head)
    assert rank(one) <= 4 < rank(three)


def test_gaussian_mixture_by_brute_force():
    y, gate, mean, scale = normal(6), normal(6, 3, seed=1), normal(6, 3, seed=2), normal(6, 3) / 2
    weights = scipy.special.softmax(np.asarray(gate), axis=-1)
    density = scipy.stats.norm.pdf(np.asarray(y)[:, None], mean, np.exp(scale))
    found = gaussians(y, gate, mean, scale)
    np.testing.assert_allclose(np.exp(found), (weights * density).sum(axis=-1), rtol=1e-4)


def test_it_is_the_mixture_of_scikit_learn():
    mixture = pytest.importorskip("sklearn.mixture")
    rng = np.random.default_rng(0)
    y = np.concatenate([rng.normal(-2, 0.5, 300), rng.normal(1, 1.0, 700)])
    theirs = mixture.GaussianMixture(2, random_state=0, tol=1e-6).fit(y[:, None])
    shape = (len(y), 2)
    gate = np.broadcast_to(np.log(theirs.weights_), shape).astype(np.float32)
    mean = np.broadcast_to(theirs.means_[:, 0], shape).astype(np.float32)
    scale = np.broadcast_to(0.5 * np.log(theirs.covariances_[:, 0, 0]), shape).astype(np.float32)
    found = gaussians(y.astype(np.float32), gate, mean, scale)
    np.testing.assert_allclose(found, theirs.score_samples(y[:, None]), atol=1e-4)
