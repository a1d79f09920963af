"""Samplers on vocabularies small enough to enumerate: exact sets, exact probabilities, χ²."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from gptjax.errors import UserError
from gptjax.infer import samplers
from gptjax.infer.settings import PRESETS, Sampling, sampling

RNG = np.random.default_rng(0)
LOGITS = RNG.normal(size=(4, 9)).astype(np.float32) * 2
LOGITS[3] = np.round(LOGITS[3])  # with ties


def distribution(requests, logits=LOGITS, prompts=None, answers=(), spared=()):
    """The probabilities of the next token after the filters that the requests ask for."""
    requests = [requests] * len(logits) if isinstance(requests, Sampling) else requests
    names, V = samplers.names_of(requests), logits.shape[1]
    prompts = prompts or [[0]] * len(logits)
    rows = samplers.rows_of(requests, V, names)
    memories = samplers.memories_of(requests, prompts, V, spared, names)
    for token in answers:
        token_B = np.full(len(logits), token, np.int32)
        memories = remembered(memories, token_B, np.ones(len(logits), bool))
    return np.asarray(probabilities(logits, rows, memories, names))


remembered = jax.jit(samplers.remembered)


@functools.partial(jax.jit, static_argnums=3)
def probabilities(logits, rows, memories, names):
    """As one program: each operation is else one of its own."""
    return jax.nn.softmax(samplers.filtered(logits, rows, memories, names))


def softmax(logits):
    e = np.exp(logits - logits.max())
    return e / e.sum()


def smallest_set(keys, p, mass):
    """bool: by adding tokens one after the other, ties with the last included."""
    order = np.argsort(-keys, kind="stable")
    count = int(np.searchsorted(np.cumsum(p[order]), mass - 1e-6)) + 1
    return keys >= keys[order[min(count, len(keys)) - 1]]


def kept(logits, stays):
    return softmax(np.where(stays, logits, -np.inf))


BY_HAND = {
    "temperature": ({"temperature": 0.5}, lambda x: softmax(2 * x)),
    "top_k": ({"top_k": 3}, lambda x: kept(x, x >= np.sort(x)[-3])),
    "top_p": ({"top_p": 0.7}, lambda x: kept(x, smallest_set(x, softmax(x), 0.7))),
    "min_p": ({"min_p": 0.2}, lambda x: kept(x, softmax(x) >= 0.2 * softmax(x).max())),
    "typical_p": (
        {"typical_p": 0.6},
        lambda x: kept(
            x,
            smallest_set(
                -np.abs(-np.log(softmax(x)) + np.sum(softmax(x) * np.log(softmax(x)))),
                softmax(x),
                0.6,
            ),
        ),
    ),
    "logit_bias": ({"logit_bias": {2: 3.0}}, lambda x: softmax(x + 3.0 * (np.arange(9) == 2))),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_filter_by_hand(name):
    settings, wanted = BY_HAND[name]
    found = distribution(sampling(**settings))
    np.testing.assert_allclose(found, [wanted(x) for x in LOGITS], atol=1e-6)


def test_penalties_by_hand():
    """Token 4 was made three times and token 1 once; the prompt has token 7."""
    count = np.zeros(9)
    count[[4, 1]] = 3, 1
    seen = count > 0

    def check(wanted, answers=(4, 1, 4, 4), prompts=None, **settings):
        found = distribution(sampling(**settings), answers=answers, prompts=prompts)
        np.testing.assert_allclose(found, [softmax(wanted(x)) for x in LOGITS], atol=1e-5)

    check(lambda x: x - 0.5 * seen, presence_penalty=0.5)
    check(lambda x: x - 0.5 * count, frequency_penalty=0.5)
    check(lambda x: x - 0.7 * np.log(np.maximum(count, 1)), count_power=0.7)

    def ctrl(x, at):
        return np.where(at, np.where(x > 0, x / 1.5, x * 1.5), x)

    check(lambda x: ctrl(x, seen), repetition_penalty=1.5)
    with_prompt = seen | (np.arange(9) == 7)
    prompts = [[7, 7]] * 4
    check(lambda x: ctrl(x, with_prompt), repetition_penalty=1.5, penalize="all", prompts=prompts)
    check(lambda x: ctrl(x, seen), repetition_penalty=1.5, prompts=prompts)


def test_markers_are_never_penalised():
    found = distribution(sampling(frequency_penalty=9.0), answers=(4, 4), spared=(4,))
    np.testing.assert_allclose(found, distribution(Sampling()), atol=1e-6)


def test_the_order_is_temperature_then_k_then_p():
    """top-p counts the mass of what top-k left, at the temperature asked for."""

    def by_hand(x):
        x = x / 0.7
        x = np.where(x >= np.sort(x)[-4], x, -np.inf)
        return kept(x, smallest_set(x, softmax(x), 0.9))

    assert PRESETS["gpt3"] == {"temperature": 0.7, "top_k": 40, "top_p": 0.9}
    found = distribution(sampling("gpt3", top_k=4))
    np.testing.assert_allclose(found, [by_hand(x) for x in LOGITS], atol=1e-6)


def test_every_row_has_its_own_settings():
    requests = [
        sampling(),
        sampling("greedy"),
        sampling(top_k=2),
        sampling(top_p=0.5, temperature=2.0),
    ]
    together = distribution(requests)
    for row, request in enumerate(requests):
        if request.temperature:
            alone = distribution(request, LOGITS[row : row + 1])
            np.testing.assert_allclose(together[row], alone[0], atol=1e-6)
    names = samplers.names_of(requests)
    rows = samplers.rows_of(requests, 9, names)
    keys = jax.random.split(jax.random.key(0), 4)
    token_B = samplers.pick(jnp.asarray(LOGITS), rows, {}, keys, names)
    assert token_B[1] == LOGITS[1].argmax()


def test_draws_have_the_probabilities():
    """χ² of 20,000 draws, and a distribution that is a little off is refused."""
    request = sampling(temperature=0.8, top_k=5)
    names = samplers.names_of([request])
    rows = samplers.rows_of([request] * 20_000, 9, names)
    keys = jax.random.split(jax.random.key(1), 20_000)
    many = jnp.broadcast_to(LOGITS[0], (20_000, 9))
    drawn = np.asarray(samplers.pick(many, rows, {}, keys, names))
    counts, p = np.bincount(drawn, minlength=9), distribution(request)[0].astype(float)
    p /= p.sum()
    assert counts[p == 0].sum() == 0
    likely = p > 0
    assert stats.chisquare(counts[likely], 20_000 * p[likely]).pvalue > 1e-3
    wrong = p[likely] * (1 + 0.1 * np.resize([1, -1], likely.sum()))
    assert stats.chisquare(counts[likely], 20_000 * wrong / wrong.sum()).pvalue < 1e-6


def test_a_filter_from_outside():
    """The recipe's, in FILTERS and out again."""

    def eta(logits_BV, rows, memories):
        return jnp.where(jax.nn.softmax(logits_BV) >= rows["eta"][:, None], logits_BV, -jnp.inf)

    samplers.FILTERS["eta"] = samplers.Filter(
        eta,
        is_on=lambda request: request.own.get("eta", 0.0) > 0.0,
        rows=lambda requests, _: {"eta": jnp.array([r.own.get("eta", 0.0) for r in requests])},
    )
    try:
        found = distribution(Sampling(own={"eta": 0.1}))
        np.testing.assert_allclose(found, [kept(x, softmax(x) >= 0.1) for x in LOGITS], atol=1e-6)
    finally:
        del samplers.FILTERS["eta"]


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be at least 0"),
        ({"top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"penalize": "some"}, "penalize"),
        ({"preset": "gpt9"}, "preset 'gpt9' is not known"),
        ({"max_tokens": 0}, "max_tokens=0 must be at least 1"),
    ],
)
def test_wrong_settings_are_refused(settings, words):
    with pytest.raises(UserError, match=words):
        sampling(settings.pop("preset", ""), **settings)


def test_filters_equal_those_of_transformers():
    """The warpers of `transformers`."""
    logits_process = pytest.importorskip("transformers.generation.logits_process")
    torch = pytest.importorskip("torch")
    logits = np.random.default_rng(3).normal(size=(3, 1000)).astype(np.float32) * 3
    prompts = [[1, 2, 3, 3]] * 3
    pairs = [
        (
            {"repetition_penalty": 1.3, "penalize": "all"},
            logits_process.RepetitionPenaltyLogitsProcessor(1.3),
        ),
        ({"temperature": 0.7}, logits_process.TemperatureLogitsWarper(0.7)),
        ({"top_k": 40}, logits_process.TopKLogitsWarper(40)),
        ({"top_p": 0.9}, logits_process.TopPLogitsWarper(0.9)),
        ({"min_p": 0.05}, logits_process.MinPLogitsWarper(0.05)),
        ({"typical_p": 0.8}, logits_process.TypicalLogitsWarper(0.8)),
    ]
    for settings, theirs in pairs:
        wanted = theirs(torch.tensor(prompts), torch.tensor(logits)).softmax(-1).numpy()
        found = distribution(sampling(**settings), logits, prompts)
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-7, err_msg=str(settings))
