"""Scores of models that know: a trained copier, one over-trained on canaries, a Markov chain."""

import math
import random

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from compiled_model import init

from gptjax import evals, infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.evals import ngrams
from gptjax.evals.compression import compress, decompress
from gptjax.evals.needle import haystack

SMALL = {"vocab_size": 257, "depth": 1, "width": 32, "num_heads": 4, "norm": "rmsnorm"}
FILLER = "the quick brown fox jumps over the lazy dog, and so on; "
WINDOW = 40


def prepared(config, params):
    return infer.Model(config, models.unstacked(config, params), ByteTokenizer(), name="small")


def trained(config, batches, weights_T, rate=1e-2):
    """Parameters after Adam on the next-token loss at the places that have a weight."""
    params = init(config, jax.random.key(0))
    optimizer = optax.adam(rate)

    def loss(params, ids_BT):
        logits_BTV = models.apply(config, params, ids_BT[:, :-1])
        each_BT = optax.softmax_cross_entropy_with_integer_labels(logits_BTV, ids_BT[:, 1:])
        return jnp.mean(each_BT @ weights_T)

    @jax.jit
    def step(params, state, ids_BT):
        updates, state = optimizer.update(jax.grad(loss)(params, ids_BT), state)
        return optax.apply_updates(params, updates), state

    state = optimizer.init(params)
    for ids_BT in batches:
        params, state = step(params, state, ids_BT)
    return params


@pytest.fixture(scope="module")
def copier():
    """A layer that sees `WINDOW` tokens, trained on needles at every depth of 64 tokens."""
    config = models.ModelConfig(
        **SMALL, seq_len=64, positions="none", layer_pattern=("local",), window=WINDOW
    )
    untrained = prepared(config, init(config, jax.random.key(1)))
    rng = random.Random(5)

    def text():
        ids, value, endings = haystack(
            untrained, FILLER * 4, 64, rng.random(), "\n{key} = {value}\n", rng
        )
        return [*ids, *endings[int(value)]]

    batches = (np.array([text() for _ in range(16)]) for _ in range(300))
    last_T = np.eye(64)[-1]
    return untrained, prepared(config, trained(config, batches, last_T))


@pytest.mark.slow
def test_a_trained_copier_finds_every_needle_that_it_sees_and_guesses_the_others(copier):
    untrained, model = copier
    depths = (0.0, 0.2, 0.5, 0.75, 1.0)
    found = evals.needle(model, FILLER, lengths=(64,), depths=depths, repeats=30)
    rates = np.array(found.curve["rate"])[:, 0]
    np.testing.assert_array_equal(rates[2:], 1.0)
    assert abs(rates[:2].mean() - 0.1) < 0.13
    guessed = evals.needle(untrained, FILLER, lengths=(64,), depths=depths, repeats=12)
    assert abs(guessed.score.value - 0.1) < 0.13


SECRETS = {"37": 8, "91": 4, "05": 2, "52": 1}


@pytest.mark.slow
def test_exposure_of_canaries_that_a_model_is_overtrained_on_is_exact_to_the_bit():
    """A model that has its canaries' frequencies ranks them by how often they stood there."""
    config = models.ModelConfig(**SMALL, seq_len=16)
    rows = [list(f"pin {s}".encode()) for s, count in SECRETS.items() for _ in range(count)]
    model = prepared(config, trained(config, [np.array(rows)] * 150, np.ones(5)))
    shares = []
    for rank, (secret, count) in enumerate(SECRETS.items(), start=1):
        bits, found, candidates = evals.exposure(model, "pin ", secret)
        assert (found, candidates) == (rank, 100)
        assert bits == math.log2(100) - math.log2(rank)
        (own,) = evals.score(model, [evals.request_of(model, "pin ", secret)])
        assert own.greedy == (rank == 1)
        shares.append(math.exp(own.total) / (count / 15))
    np.testing.assert_allclose(shares, shares[0], rtol=0.05)
    assert evals.exposure(model, "pin ", "66")[0] < math.log2(100) - math.log2(4)


DATA, OTHER = (np.array([[a, 1 - a], [1 - b, b]]) for a, b in ((0.7, 0.6), (0.4, 0.5)))


def stationary(chain):
    return np.linalg.matrix_power(chain, 60)[0]


def markov(chain):
    """A decoder whose next letter, a or b, depends on the last one alone, as the chain says."""
    config = models.ModelConfig(
        vocab_size=257,
        depth=1,
        width=4,
        num_heads=1,
        seq_len=64,
        norm="rmsnorm",
        positions="none",
        tied_head=False,
        use_bias=False,
    )
    params = models.unstacked(config, init(config, jax.random.key(0)))
    params["blocks"] = jax.tree.map(jnp.zeros_like, params["blocks"])
    letters, end = [ord("a"), ord("b")], 256
    embedding_VD = np.zeros((257, 4), np.float32)
    embedding_VD[[*letters, end], [0, 1, 2]] = 1.0
    head_DV = np.full((4, 257), -50.0, np.float32)
    head_DV[:3, letters] = np.log([*chain, stationary(chain)]) / 2.0  # the norm gives 2
    values = {(257, 4): embedding_VD, (4, 257): head_DV}
    for part in ("embed", "head"):
        params[part] = jax.tree.map(lambda x: jnp.asarray(values[x.shape]), params[part])
    return infer.Model(config, params, ByteTokenizer(), name="chain")


def texts(chain, count):
    rng, found = np.random.default_rng(0), []
    for _ in range(count):
        row = [int(rng.random() > stationary(chain)[0])]
        while len(row) < 70:
            row.append(int(rng.random() > chain[row[-1], 0]))
        found.append("".join("ab"[i] for i in row))
    return found


def test_the_model_of_a_chain_is_that_chain():
    for model, chain in ((markov(DATA), DATA), (markov(OTHER), OTHER)):
        (found,) = evals.score(model, [evals.Request((256,), tuple(b"abba"))])
        expected = [stationary(chain)[0], chain[0, 1], chain[1, 1], chain[1, 0]]
        np.testing.assert_allclose(np.exp(found.logprobs), expected, rtol=1e-4)


@pytest.mark.slow
def test_the_divergence_of_a_models_five_grams_is_exact_on_a_markov_source():
    data = texts(DATA, 500)
    exact = ngrams.of_markov(DATA, OTHER, stationary(DATA), stationary(OTHER))
    other = ngrams.compare_written(markov(OTHER), data, written=12_000)
    assert other.score.value == pytest.approx(exact, abs=0.05) and exact > 0.4
    same = ngrams.compare_written(markov(DATA), data, written=12_000)
    assert abs(same.metrics["excess"].value) < 0.01 > same.metrics["floor"].value > 0
    few = ngrams.compare_written(markov(DATA), data, written=300)
    assert few.metrics["floor"].value > 0.02 and abs(few.metrics["excess"].value) < 0.1
    assert sum(row["tokens"] - 4 for row in few.items) == 300


def test_information_and_code_length_are_those_of_a_known_entropy():
    """I(X_<t; X_t) is H(π) less the chain's entropy rate, and the coder takes that rate."""
    start = stationary(DATA)
    single = -float(start @ np.log(start))
    rate = -float(start @ np.sum(DATA * np.log(DATA), axis=1))
    data = texts(DATA, 200)
    found = evals.perplexity(markov(DATA), [evals.Document(text[:63]) for text in data])
    assert found.metrics["mutual_information"].value == pytest.approx(single - rate, abs=0.01)
    assert found.score.value == pytest.approx(rate, abs=0.01)
    content = "".join(text[:64] for text in data[:40]).encode()
    made = compress(markov(DATA), content)
    assert decompress(markov(DATA), made.data) == content
    assert abs(made.payload_bits - made.ideal_bits) <= 0.001 * made.ideal_bits + 16
    assert made.ideal_bits / len(content) == pytest.approx(rate / math.log(2), rel=0.03)
