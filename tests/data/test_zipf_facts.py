"""zipf-facts: the entropy is what it says, and nobody can beat it."""

import dataclasses
import math

import numpy as np
import pytest

from gptjax.data import load, num_windows
from gptjax.data.sources import zipf_facts as zf
from gptjax.errors import UserError
from gptjax.fields import replaced

SMALL = {
    "zipf_facts.entities": 64,
    "zipf_facts.base": 8,
    "zipf_facts.relations": 1,
    "zipf_facts.attributes": 5,
}


@pytest.fixture
def small(config):
    """64 entities of two digits and one attribute: documents of four tokens."""
    return config(
        source="zipf-facts",
        **{"zipf_facts.tokens": 200_000, "zipf_facts.heldout_tokens": 80_000},
        **SMALL,
    )


def test_entropy_by_hand(config):
    """s = 0, K = 4: ln 4 nats over two binary digits and two attributes."""
    facts = zf.language(zf.ZipfFactsConfig(exponent=0.0, entities=4, base=2, relations=2))
    assert facts.document_length == 5
    assert facts.entropy_nats(mask_end_of_document=True) == pytest.approx(math.log(4) / 4)
    assert facts.entropy_nats(mask_end_of_document=False) == pytest.approx(math.log(4) / 5)
    assert facts.nll == pytest.approx(np.array([[math.log(2), math.log(2), 0, 0]] * 4))


def test_entropy_of_the_published_setting(config):
    """s = 1.5, K = 4096, two digits of base 64, two attributes: E = .7615."""
    facts = zf.language(zf.ZipfFactsConfig(base=64, relations=2))
    assert facts.entropy_nats(mask_end_of_document=True) == pytest.approx(0.7615, abs=1e-4)


def test_exact_log_probabilities_sum_to_the_entropy(config):
    """The expectation of the tokens' −ln P over all documents is H(K)."""
    facts = zf.language(zf.ZipfFactsConfig())
    probability = np.empty(4096)
    probability[facts.entity_of_rank] = np.diff(facts.cumulative, prepend=0)
    assert probability.sum() == pytest.approx(1)
    assert probability @ facts.nll.sum(axis=1) == pytest.approx(facts.entropy_of_document)
    assert np.allclose(np.exp(-facts.nll.sum(axis=1)), probability)


def test_empirical_entropy_matches_the_formula(small):
    corpus = load(small, seq_len=64)
    targets = corpus.heldout[1:]
    scored = corpus.heldout_logprob_nats[1:][corpus.scored(targets)]
    by_document = scored.reshape(-1, 3).sum(axis=1)
    error = by_document.std() / math.sqrt(len(by_document)) / 3
    assert scored.mean() == pytest.approx(corpus.entropy_nats, abs=4 * error)
    # And from counts alone, without the generator's probabilities (Miller's bias correction).
    documents = np.asarray(corpus.train[:-1]).reshape(-1, 4)
    counts = np.unique(documents, axis=0, return_counts=True)[1]
    share = counts / counts.sum()
    plug_in = -(share * np.log(share)).sum() + (len(counts) - 1) / (2 * counts.sum())
    assert plug_in / 3 == pytest.approx(corpus.entropy_nats, abs=4 * error)


def test_entropy_with_the_end_of_document_scored(small):
    masked = load(small, seq_len=64)
    open_ = load(dataclasses.replace(small, mask_end_of_document=False), seq_len=64)
    assert open_.entropy_nats == pytest.approx(masked.entropy_nats * 3 / 4)
    assert bool(open_.scored(open_.heldout[1:]).all())
    assert masked.scored(masked.heldout[1:]).mean() == 0.75
    assert open_.fingerprint != masked.fingerprint
    assert masked.bytes_per_token == 1.0


def test_log_probabilities_belong_to_their_tokens(small):
    """Each held-out document's and first digit's −ln P is that of its frequency in train."""
    corpus = load(small, seq_len=64)
    train = np.asarray(corpus.train[:-1]).reshape(-1, 4)
    heldout = np.asarray(corpus.heldout[:-1]).reshape(-1, 4)
    nll = np.asarray(corpus.heldout_logprob_nats[:-1]).reshape(-1, 4)
    assert (nll[:, 0] == 0).all()
    assert (nll[:, 3] == 0).all()
    for digits in np.unique(heldout[:, 1:3], axis=0)[::5]:
        chosen = (heldout[:, 1:3] == digits).all(axis=1)
        share = (train[:, 1:3] == digits).all(axis=1).mean()
        assert np.exp(-nll[chosen].sum(axis=1)) == pytest.approx(share, abs=0.01)
        share = (train[:, 1] == digits[0]).mean()
        assert np.exp(-nll[chosen, 1]) == pytest.approx(share, abs=0.01)


def ngram_nll(train, targets, order):
    """Held-out −ln P of each token under add-0.1 counts of the `order` tokens before it."""
    size = int(train.max()) + 1

    def codes(tokens):
        context = np.zeros(len(tokens) - order, dtype=np.int64)
        for j in range(order):
            context = context * size + tokens[j : len(tokens) - order + j]
        return context, tokens[order:]

    context, following = codes(train.astype(np.int64))
    counts = np.full((size**order, size), 0.1)
    np.add.at(counts, (context, following), 1)
    context, following = codes(targets.astype(np.int64))
    return -np.log(counts[context, following] / counts[context].sum(axis=1))


@pytest.mark.parametrize("order", [1, 3])
def test_count_models_cannot_beat_it(small, order):
    corpus = load(small, seq_len=64)
    scored = np.asarray(corpus.scored(corpus.heldout[order:]))
    counted = ngram_nll(np.asarray(corpus.train), np.asarray(corpus.heldout), order)[scored]
    gain = counted - np.asarray(corpus.heldout_logprob_nats[order:])[scored]
    error = gain.std() / math.sqrt(len(gain))
    assert gain.mean() > -4 * error
    if order == 1:
        assert gain.mean() > 0.05  # one token of context is not enough to know the entity
    else:
        assert gain.mean() < 0.01  # the whole document is, up to the counts' own error


def test_attributes_are_facts(small):
    """The same digits always have the same attribute, on both sides."""
    corpus = load(small, seq_len=64)
    facts = {}
    for side in (corpus.train, corpus.heldout):
        assert side[-1] == corpus.end_of_document
        documents = np.asarray(side[:-1]).reshape(-1, 4)
        assert (documents[:, 0] == corpus.end_of_document).all()
        assert (documents[:, 1:] != corpus.end_of_document).all()
        for _, first, second, attribute in np.unique(documents, axis=0).tolist():
            assert facts.setdefault((first, second), attribute) == attribute
    assert len(facts) == 64


def test_windows_start_at_documents(small):
    corpus = load(small, seq_len=64)
    for side in (corpus.train, corpus.heldout):
        starts = np.arange(num_windows(len(side), 64)) * 64
        assert (side[starts] == corpus.end_of_document).all()
    assert num_windows(len(corpus.train), 64) * 64 == len(corpus.train) - 1


def test_generation_is_a_function_of_seed_side_and_number(small):
    facts = zf.language(small.zipf_facts)
    whole = zf.entities(facts, 3, 0, 1000, heldout=False)
    parts = [zf.entities(facts, 3, first, 100, heldout=False) for first in range(0, 1000, 100)]
    assert np.array_equal(whole, np.concatenate(parts))
    others = [
        zf.entities(facts, 4, 0, 1000, heldout=False),
        zf.entities(facts, 3, 0, 1000, heldout=True),
        zf.entities(facts, 3, 1, 1000, heldout=False),
    ]
    chance = (np.diff(facts.cumulative, prepend=0) ** 2).sum()
    for other in others:
        assert (whole == other).mean() == pytest.approx(chance, abs=0.08)


def test_ranks_follow_zipf(config):
    facts = zf.language(zf.ZipfFactsConfig(exponent=1.0, entities=10))
    who = zf.entities(facts, 0, 0, 100_000, heldout=False)
    rank = np.argsort(facts.entity_of_rank)[who] + 1
    shares = np.bincount(rank, minlength=11)[1:] / 100_000
    expected = (1 / np.arange(1, 11)) / (1 / np.arange(1, 11)).sum()
    assert shares == pytest.approx(expected, abs=0.006)


def test_text_of_the_language(small):
    corpus = load(small, seq_len=64)
    text = corpus.decode(corpus.heldout[:9])
    assert len(text) == 6
    assert corpus.encode(text).tolist() == [i for i in corpus.heldout[:9].tolist() if i != 13]
    with pytest.raises(UserError, match="no symbol of zipf-facts"):
        corpus.encode("é")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"zipf_facts.digits": 1}, r"data.zipf_facts.digits=1 .* cannot write .*give 2 or more"),
        ({"zipf_facts.entities": 1 << 22, "zipf_facts.relations": 1000}, r"makes \d+ facts"),
        ({"zipf_facts.tokens": 10}, r"data.zipf_facts.tokens=10 must hold a window"),
        ({"zipf_facts.heldout_tokens": 10}, r"data.zipf_facts.heldout_tokens=10 must hold"),
        ({"zipf_facts.tokens": 1 << 40}, r"data.zipf_facts.tokens=\d+ .* at most"),
        ({"zipf_facts.relations": 2}, r"model.seq_len=64 is not a multiple of 5.* try 60 or 65"),
    ],
)
def test_settings_that_make_no_sense(small, settings, words):
    with pytest.raises(UserError, match=words):
        load(replaced(small, settings), seq_len=64)
