"""Retrieval: bm25s's and rank_bm25's numbers, an index on disk, both marginalisations by hand."""

import dataclasses
import itertools

import jax.numpy as jnp
import numpy as np
import pytest

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.infer import dense_retrieval, rag, retrieval, samplers
from gptjax.infer.settings import Sampling

DOCUMENTS = (
    "red fox red",
    "a dog and a fox",
    "dog dog dog cat",
    "bird",
    "a cat sat on a mat and a mat",
    "red bird red bird",
)
QUERY = "red fox a"
# bm25s 0.3.16, method="lucene", k1=1.5, b=0.75, float64, times k1 + 1.
BM25S = [2.827417, 2.36453, 0.0, 0.0, 1.352025, 1.508175]
# rank_bm25 0.2.2, BM25Okapi with the same, whose logarithm is without the 1.
OKAPI = [1.614109, 1.349857, 0.0, 0.0, 0.771841, 0.860983]


class Words:
    """One id a word."""

    def __init__(self, documents=DOCUMENTS):
        self.words = sorted({word for text in documents for word in text.split()})
        self.vocab_size, self.end_of_document = len(self.words) + 2, len(self.words) + 1

    def encode(self, documents):
        known = {word: number for number, word in enumerate(self.words)}
        for text in documents:
            yield np.array([known.get(w, len(known)) for w in text.decode().split()])


@pytest.fixture(scope="module")
def index():
    return retrieval.build(DOCUMENTS, Words())


def asked(query):
    return next(Words().encode([query.encode()])).tolist()


def test_scores_are_those_of_other_libraries(index):
    found = index.scores(asked(QUERY))
    np.testing.assert_allclose(found, BM25S, atol=1e-6)
    # All three words are in two documents of six: the logarithms differ by one factor.
    np.testing.assert_allclose(found * np.log(4.5 / 2.5) / np.log(1 + 4.5 / 2.5), OKAPI, atol=2e-6)


def test_the_best_come_first_and_a_word_asked_twice_counts_twice(index):
    assert [which for which, _ in retrieval.best(index.scores(asked(QUERY)), 3)] == [0, 1, 5]
    np.testing.assert_allclose(
        index.scores(asked("red red fox a")),
        index.scores(asked(QUERY)) + index.scores(asked("red")),
    )
    assert not index.scores(asked("unheard")).any()


def test_an_index_on_disk_belongs_to_its_tokenizer(index, tmp_path):
    retrieval.save(index, tmp_path / "index")
    again = retrieval.load(tmp_path / "index", Words())
    assert again.documents == DOCUMENTS
    np.testing.assert_array_equal(again.scores(asked(QUERY)), index.scores(asked(QUERY)))
    with pytest.raises(UserError, match="index of another tokenizer's tokens"):
        retrieval.load(tmp_path / "index", ByteTokenizer())
    (tmp_path / "index" / retrieval.FILE).write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(UserError, match="no index that can be read"):
        retrieval.load(tmp_path / "index", Words())
    with pytest.raises(UserError, match="needs documents"):
        retrieval.build([], Words())


def test_both_marginalisations_are_sums_over_documents():
    """All ways to choose one document, or one for each token, added up one by one."""
    rng = np.random.default_rng(0)
    scores, p = rng.normal(size=3), rng.uniform(0.05, 1.0, (3, 4))
    weight = np.exp(scores) / np.exp(scores).sum()
    by_sequence = sum(weight[z] * p[z].prod() for z in range(3))
    by_token = sum(
        np.prod([weight[z] * p[z, i] for i, z in enumerate(chosen)])
        for chosen in itertools.product(range(3), repeat=4)
    )
    prior, logs = rag.prior(scores), np.log(p)
    assert np.exp(rag.rag_sequence(prior, logs)) == pytest.approx(by_sequence)
    assert np.exp(rag.rag_token(prior, logs)) == pytest.approx(by_token)
    assert abs(by_sequence - by_token) > 1e-3


def test_both_are_those_of_transformers():
    """RagTokenForGeneration.marginalize and RagSequenceForGeneration.get_nll, transformers 5.24."""
    prior_Z = rag.prior([-0.436435252, -1.169801950, 1.739367843])
    logprobs_ZT = np.array(
        [
            [-2.242362575, -5.648979063, -1.993982418, -3.068126934],
            [-0.466853511, -0.825100709, -3.811668372, -3.580580279],
            [-0.708850980, -2.157476012, -1.219249603, -0.799518420],
        ]
    )
    assert rag.rag_token(prior_Z, logprobs_ZT) == pytest.approx(-5.156041588, rel=1e-8)
    assert rag.rag_sequence(prior_Z, logprobs_ZT) == pytest.approx(-5.039164831, rel=1e-8)


def test_rows_of_a_pool_choose_from_one_sum_of_probabilities():
    p_BV = np.array([[0.6, 0.3, 0.1], [0.1, 0.3, 0.6], [0.2, 0.5, 0.3]])
    owns = {0: (7, np.log(0.25)), 2: (7, np.log(0.75))}
    requests = [Sampling(own={"pooled": owns[i]} if i in owns else {}) for i in range(3)]
    names = samplers.names_of(requests)
    rows = samplers.rows_of(requests, 3, names)
    found = np.exp(samplers.filtered(jnp.log(p_BV), rows, {}, ("pooled",)))
    one = 0.25 * p_BV[0] + 0.75 * p_BV[2]
    np.testing.assert_allclose(found, [one, p_BV[1], one], rtol=1e-5)
    assert names[0] == "pooled"


def test_words_have_the_same_scores_as_tokens_that_are_words(index):
    by_words = retrieval.build(DOCUMENTS, ByteTokenizer(), by_words=True)
    asked_words = by_words.query("Red fox, a unicorn?", ByteTokenizer())
    np.testing.assert_allclose(by_words.scores(asked_words), BM25S, atol=1e-6)


def test_passages_keep_their_text_and_names_stay_with_them(tmp_path):
    text = "one two  three\n\nfour five"
    assert retrieval.passages(text, 2) == ["one two", "three\n\nfour", "five"]
    assert retrieval.passages(f" {text}\n", 0) == [text]
    retrieval.save(retrieval.build(["red", "fox"], Words(), names=["a", "b"]), tmp_path)
    assert retrieval.load(tmp_path, Words()).name(1) == "b"


CONFIG = models.ModelConfig(vocab_size=257, depth=1, width=8, num_heads=2, seq_len=32)


def test_words_are_read_once_and_numbered_in_their_order(monkeypatch):
    read = []
    words_of = retrieval.words_of
    monkeypatch.setattr(retrieval, "words_of", lambda text: read.append(text) or words_of(text))
    found = retrieval.build(DOCUMENTS, ByteTokenizer(), by_words=True)
    assert found.vocabulary == tuple(sorted({w for text in DOCUMENTS for w in text.split()}))
    assert read == [*DOCUMENTS] and found.query("fox red", ByteTokenizer()) == [5, 8]
    assert found._numbers is found._numbers


@pytest.mark.parametrize(
    ("question", "words"),
    [("", "the question has no token"), ("x" * 33, "the question has 33 tokens, .* holds 32; ask")],
)
def test_a_question_without_a_state_is_told_as_a_question(question, words):
    model = infer.Model(CONFIG, {}, ByteTokenizer())
    index = retrieval.build(["a"], ByteTokenizer())
    index = dataclasses.replace(index, states_of="x")
    with pytest.raises(UserError, match=words):
        dense_retrieval.scores(index, model, question)


def test_a_question_is_no_batch_of_padding(monkeypatch):
    shapes = []

    def means(plan, params, ids_BT, counts_BT):
        shapes.append(ids_BT.shape)
        return np.ones((ids_BT.shape[0], CONFIG.width))

    monkeypatch.setattr(dense_retrieval, "_means", means)
    dense_retrieval.mean_states(infer.Model(CONFIG, {}, ByteTokenizer()), [[1, 2, 3]])
    assert shapes == [(1, 16)]
