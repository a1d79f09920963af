"""Several models as one, streams without an end, and what several answers are worth."""

import dataclasses
import itertools
import math
import os
from pathlib import Path

import compiled_model
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from gptjax import infer, models
from gptjax.errors import UserError
from gptjax.infer.answers import majority_right

CONFIG = models.ModelConfig(
    vocab_size=11, depth=1, width=8, num_heads=2, seq_len=16, init_scale=0.7, positions="rotary"
)


def made(seed, **changes):
    config = dataclasses.replace(CONFIG, **changes)
    params = compiled_model.fresh_layers(config, seed)
    return infer.Model(config, params, name=f"model {seed}")


def last_logits(model, ids):
    """After `ids`, in a text of one length, so that every prefix is the same program."""
    row = np.zeros((1, CONFIG.seq_len), np.int32)
    row[0, : len(ids)] = ids
    logits = compiled_model.fresh_logits(model.config, model.params, row)
    return np.asarray(logits, np.float64)[0, len(ids) - 1]


def log_softmax(x):
    return x - x.max() - np.log(np.exp(x - x.max()).sum())


def test_contrast_by_hand():
    """p = (.5, .3, .15, .05) against (.5, .1, .3, .1): the last is not plausible at α = 0.2."""
    expert, amateur = np.log([[0.5, 0.3, 0.15, 0.05]]), np.log([[0.5, 0.1, 0.3, 0.1]])
    found = infer.Contrast(alpha=0.2)([jnp.asarray(expert), jnp.asarray(amateur)])
    np.testing.assert_allclose(found, [[0.0, math.log(3), -math.log(2), -np.inf]], atol=1e-6)
    alone = infer.Contrast(alpha=1.0)([jnp.asarray(expert), jnp.asarray(amateur)])
    assert np.isfinite(alone).tolist() == [[True, False, False, False]]


def test_contrastive_decoding_is_the_argmax_of_the_contrast():
    expert, amateur = made(0, depth=2), made(1)
    both = infer.joined([expert, amateur], infer.Contrast(0.1, 0.5))
    (answer,) = infer.generate(both, [(1, 2)], infer.sampling("greedy", max_tokens=6))
    ids = [1, 2]
    for token in answer.tokens:
        log = log_softmax(last_logits(expert, ids))
        weak = log_softmax(last_logits(amateur, ids) / 0.5)
        score = np.where(log >= log.max() + np.log(0.1), log - weak, -np.inf)
        assert token == score.argmax()
        ids.append(token)


def test_a_mixture_averages_probabilities():
    one, two = made(0), made(1)
    both = infer.joined([one, two], infer.Mixture((3.0, 1.0)))
    (answer,) = infer.generate(both, [(1, 2)], infer.sampling("greedy", max_tokens=1))
    p = [np.exp(log_softmax(last_logits(model, [1, 2]))) for model in (one, two)]
    mixed = 0.75 * p[0] + 0.25 * p[1]
    assert answer.tokens == (mixed.argmax(),)
    assert answer.logprobs[0] == pytest.approx(np.log(mixed.max()), abs=1e-4)


def test_members_that_do_not_fit_are_refused():
    with pytest.raises(UserError, match="members must share a vocabulary"):
        infer.joined([made(0), made(1, vocab_size=9)], infer.Contrast())
    with pytest.raises(UserError, match="give one for each"):
        infer.joined([made(0), made(1)], infer.Mixture((1.0,)))


@pytest.mark.parametrize("positions", ["rotary", "alibi"])
def test_a_stream_sees_its_first_and_last_tokens(positions):
    """In one layer keys depend on their tokens alone, so the model of a cut text is the oracle.

    Places count inside the cache: the text is cut and closed up, as streaming-llm has it.
    """
    model = made(2, positions=positions)
    endless = infer.streaming(model, first=2, last=5)
    prompts = [(1, 2, 3), tuple(range(1, 11))]
    answers = infer.generate(endless, prompts, infer.sampling("greedy", max_tokens=40))
    for prompt, answer in zip(prompts, answers, strict=True):
        ids = list(prompt)
        assert len(answer.tokens) == 40
        for token in answer.tokens:
            seen = ids if len(ids) <= 7 else ids[:2] + ids[-5:]
            assert token == last_logits(model, seen).argmax()
            ids.append(token)


def test_bytes_of_a_stream_are_constant():
    stream = models.Stream(2, 5)

    def held(tokens):
        return jax.tree.map(lambda x: x.nbytes, models.init_cache(CONFIG, 1, tokens, stream))

    assert held(10).layers == held(100_000).layers
    assert sum(held(1).layers[0].values()) == 2 * 7 * 8 * 4


def test_streams_that_cannot_be_are_refused():
    with pytest.raises(UserError, match="no more together than the 16 tokens"):
        infer.streaming(made(0), first=4, last=13)
    for changes in ({"positions": "learned"}, {"layer_pattern": ("local",), "window": 3}):
        with pytest.raises(UserError, match="streaming forgets tokens of global layers"):
            infer.streaming(made(0, **changes), first=1, last=3)


def test_pass_at_k_is_the_mean_over_all_choices():
    for n, c, k in [(6, 2, 3), (5, 0, 2), (4, 3, 2), (7, 1, 1)]:
        right = [i < c for i in range(n)]
        choices = list(itertools.combinations(right, k))
        assert infer.pass_at_k(n, c, k) == pytest.approx(np.mean([any(x) for x in choices]))


def test_the_best_of_some_answers_is_the_mean_over_all_choices():
    """Answers of one score share what is right among them."""
    scores, right = [0.3, 0.1, 0.9, 0.3, 0.5], [True, False, False, False, True]
    for k in range(1, 6):
        wins = []
        for some in itertools.combinations(range(5), k):
            best = max(scores[i] for i in some)
            tied = [i for i in range(5) if scores[i] == best]
            wins.append(np.mean([right[i] for i in tied]))
        assert infer.best_right(scores, right, k) == pytest.approx(np.mean(wins))


def test_the_majority_of_some_answers():
    """By enumeration of all choices of three of six answers."""
    given = [0, 0, 0, 1, 1, 2]
    wins = []
    for some in itertools.combinations(given, 3):
        counts = np.bincount(some, minlength=3)
        wins.append((counts[0] == counts.max()) / (counts == counts.max()).sum())
    assert majority_right([3, 2, 1], 0, 3, draws=40_000) == pytest.approx(np.mean(wins), abs=0.01)
    assert infer.majority(given) == 0 and infer.best_of([1, 3, 2], lambda x: -abs(x - 2)) == 2


def trained_on_text(config, text_N, steps, batch=16):
    """Parameters after Adam on windows of a text."""
    params, optimizer = compiled_model.fresh(config, 0), optax.adam(4e-3)
    T, rng = config.seq_len, np.random.default_rng(0)

    def loss(params, ids_BT):
        logits_BTV = models.apply(config, params, ids_BT[:, :-1])
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits_BTV, ids_BT[:, 1:]))

    @jax.jit
    def step(params, state, ids_BT):
        updates, state = optimizer.update(jax.grad(loss)(params, ids_BT), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for _ in range(steps):
        first_B = rng.integers(0, len(text_N) - T - 1, batch)
        params, state = step(params, state, text_N[first_B[:, None] + np.arange(T + 1)])
    return params


def losses_of(config, params, ids_BT, stream=None):
    """Nats of each token, read one after another from one cache."""

    @jax.jit
    def run(params, ids_BT):
        tokens = ids_BT.shape[1]
        cache = models.init_cache(config, ids_BT.shape[0], tokens, stream)
        length = models.rope_length(config, tokens)
        x, _ = models.decode(config, params, cache, ids_BT[:, :-1], length=length, stream=stream)
        return optax.softmax_cross_entropy_with_integer_labels(
            models.logits(config, params, x), ids_BT[:, 1:]
        )

    return np.asarray(run(params, ids_BT))


@pytest.mark.slow
def test_the_loss_of_a_stream_stays_where_the_whole_cache_leaves_what_was_trained():
    """A small model of 64 tokens of context on texts of 512: python -m pytest -m slow -s
    tests/infer/test_members.py -k stream."""
    text = b"".join(sorted(p.read_bytes() for p in Path(os.__file__).parent.glob("[a-h]*.py")))
    text_N = np.frombuffer(text, np.uint8).astype(np.int32)
    config = models.ModelConfig(
        vocab_size=256,
        depth=2,
        width=64,
        num_heads=4,
        seq_len=64,
        positions="rotary",
        norm="rmsnorm",
        use_bias=False,
        init_scale=0.1,
    )
    cut = len(text_N) * 9 // 10
    params = models.unstacked(config, trained_on_text(config, text_N[:cut], 800))
    starts = np.linspace(0, len(text_N) - cut - 520, 16).astype(int) + cut
    ids_BT = text_N[starts[:, None] + np.arange(513)]
    long = dataclasses.replace(config, seq_len=512)
    windowed = dataclasses.replace(long, layer_pattern=("local",), window=64)
    each = {
        "sinks": losses_of(config, params, ids_BT, models.Stream(4, 60)),
        "window": losses_of(windowed, params, ids_BT),
        "whole": losses_of(long, params, ids_BT),
    }
    late = {name: float(x[:, 256:].mean()) for name, x in each.items()}
    trained = float(each["whole"][:, 32:64].mean())
    print({"trained context": trained, **late})
    assert abs(late["sinks"] - trained) < 0.15
    assert late["whole"] > late["sinks"] + 0.3
