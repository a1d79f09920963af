"""Mixtures of sources: exact proportions at every example, and settings that make no sense."""

import types

import numpy as np
import pytest

from gptjax.config import default_config, make_config
from gptjax.data import batch_numpy, load, mixture_tokenizer
from gptjax.data import mixture_order as order
from gptjax.data.mixture import PLACES, counts_of, cycle
from gptjax.errors import UserError

SIZES = (50, 3000, 7)


@pytest.mark.parametrize(
    "weights", [(1.0,), (0.5, 0.5), (0.0, 1.0), (0.7, 0.2, 0.1), (0.123456, 0.4, 0.476544)]
)
def test_every_source_has_its_part_after_any_number_of_examples(weights):
    schedule = order.make_schedule(weights, (), 10_000, 4)
    source, number = order.sources_of(schedule, np.arange(40_000))
    came = np.cumsum(source[:, None] == np.arange(len(weights)), axis=0)
    wanted = np.arange(1, 40_001)[:, None] * np.array(weights)
    rounded = 0.0 if sum(counts_of(weights)) < PLACES else 40_000 / (2 * PLACES)
    assert np.abs(came - wanted).max() < 1 + rounded
    mine = came[np.arange(40_000), source] - 1
    np.testing.assert_array_equal(number, mine)  # each source is read in its own order


def test_no_place_of_a_cycle_is_further_from_its_part_than_the_theorem_says():
    rng = np.random.default_rng(0)
    for sources in (2, 3, 6, 10):
        counts = counts_of(np.round(rng.dirichlet(np.full(sources, 0.5)), 3))
        places = cycle(counts)
        at = np.arange(1, len(places) + 1)
        worst = max(
            np.abs(np.cumsum(places == k) - at * counts[k] / len(places)).max()
            for k in range(sources)
        )
        assert worst <= 1 - 1 / (2 * sources - 2) + 1e-9


def test_phases_have_their_own_parts_and_go_on_where_a_source_was():
    schedule = order.make_schedule((0.75, 0.25, 0.25, 0.75), (0.5,), 20, 8)
    source, number = order.sources_of(schedule, np.arange(160))
    assert [int(np.sum(source[:80] == 0)), int(np.sum(source[80:] == 0))] == [60, 20]
    for k in (0, 1):
        np.testing.assert_array_equal(number[source == k], np.arange(80))


def test_the_host_and_the_device_read_the_same_windows():
    schedule = order.make_schedule((0.7, 0.2, 0.1, 0.1, 0.1, 0.8), (0.5,), 4000, 8)
    seen = []
    for step in (0, 3, 1999, 2000, 3999):
        here = order.mixed_windows_numpy(schedule, 5, step, 8, SIZES)
        there = order.mixed_windows_jax(schedule, np.uint32(5), step, 8, SIZES)
        np.testing.assert_array_equal(here, np.asarray(there))
        seen.append(here)
    assert max(window.max() for window in seen) < sum(SIZES)


def test_every_window_of_a_source_is_read_once_in_an_epoch():
    schedule = order.make_schedule((0.5, 0.25, 0.25), (), 100, 4)
    windows = np.concatenate(
        [order.mixed_windows_numpy(schedule, 1, step, 4, (40, 20, 10)) for step in range(20)]
    )
    np.testing.assert_array_equal(np.sort(windows[windows < 40]), np.arange(40))
    np.testing.assert_array_equal(
        np.sort(windows[(windows >= 40) & (windows < 60)]) - 40, range(20)
    )
    np.testing.assert_array_equal(np.unique(windows[windows >= 60]) - 60, np.arange(10))


@pytest.fixture
def two(config, write, tmp_path):
    """Settings of a mixture of two folders of text."""
    write(tmp_path / "one", 80)
    write(tmp_path / "other", 80, seed=1, words=30)

    def make(**settings):
        sources = tuple(
            f"{label}: source=text path={tmp_path / label} heldout_fraction=0.2"
            for label in ("one", "other")
        )
        return config(**{"sources": sources, "weights": (0.5, 0.5), **settings})

    return make


def test_a_corpus_of_two_holds_both_and_no_window_of_two(two, config, tmp_path):
    corpus = load(two(), seq_len=32)
    alone = [
        load(config(source="text", path=str(tmp_path / name), heldout_fraction=0.2), seq_len=32)
        for name in ("one", "other")
    ]
    for side in ("train", "heldout"):
        joined = np.concatenate([getattr(one, side) for one in alone])
        np.testing.assert_array_equal(getattr(corpus, side), joined)
    assert corpus.heldout_bytes == sum(one.heldout_bytes for one in alone)
    assert [part.label for part in corpus.parts] == ["one", "other"]
    sizes = corpus.train_windows(32)
    starts = order.window_starts(
        np.arange(sum(sizes)), sizes, [part.train[0] for part in corpus.parts], 32
    )
    for first, (begin, end) in zip(
        (0, sizes[0]), (part.train for part in corpus.parts), strict=True
    ):
        mine = starts[first : first + sizes[first > 0]]
        assert begin <= mine.min() and mine.max() + 33 <= end
    assert load(two(targets=(1.0, 0.0)), seq_len=32).fingerprint != corpus.fingerprint


def test_all_of_the_weight_on_one_source_reads_that_source(two):
    corpus = load(two(), seq_len=32)
    sizes, begins = corpus.train_windows(32), [part.train[0] for part in corpus.parts]
    schedule = order.make_schedule((1.0, 0.0), (), 50, 8)
    begin, end = corpus.parts[0].train
    for step in (0, 40):
        windows = order.mixed_windows_numpy(schedule, 3, step, 8, sizes)
        starts = order.window_starts(windows, sizes, begins, 32)
        plain, _ = batch_numpy(corpus.train[begin:end], 32, 3, step, 8)
        np.testing.assert_array_equal(corpus.train[starts], plain[:, 0])


CODE = "code: source=python-stdlib"


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"sources": (CODE, "b: path=x"), "weights": (0.5, 0.4)}, "data.weights sum to 0.9"),
        (
            {"sources": (CODE, "b: path=x"), "weights": (0.99997, 0.00003)},
            "the least that is exact",
        ),
        ({"sources": (CODE,), "weights": ()}, "data.weights has 0 entries for 1 data.sources"),
        ({"weights": (1.0,)}, "data.weights is for a mixture and data.sources is empty"),
        ({"sources": ("code",), "weights": (1.0,)}, "write it as LABEL: KEY=VALUE"),
        ({"sources": (CODE, CODE), "weights": (0.5, 0.5)}, "the label 'code' twice"),
        ({"sources": ("a: sourc=text",), "weights": (1.0,)}, "did you mean source"),
        ({"sources": ("a: source=txt",), "weights": (1.0,)}, "data.source='txt' is not known"),
        ({"sources": ("a: tokenizer=bpe",), "weights": (1.0,)}, "no setting of one source"),
        ({"sources": ("a: path",), "weights": (1.0,)}, "'path' without a value"),
        ({"sources": ("a: path='x",), "weights": (1.0,)}, "close the quotes"),
        (
            {"sources": (CODE,), "weights": (1.0, 1.0, 1.0), "phases": (0.9, 0.5)},
            "must rise",
        ),
        ({"sources": (CODE,), "weights": (1.0, 0.9), "phases": (0.5,)}, "of phase 2 sum to 0.9"),
        ({"sources": (CODE,), "weights": (1.0,), "targets": (0.5,)}, "data.targets=(0.5,) must"),
        ({"sources": (CODE,), "weights": (1.0,), "repeats": (1.0, 2.0)}, "has 2 entries for 1"),
    ],
)
def test_a_mixture_that_makes_no_sense_is_one_sentence(settings, words):
    config = default_config().to_dict()
    config["data"].update(settings)
    with pytest.raises(UserError) as error:
        make_config(config)
    assert words in str(error.value)


def test_sources_with_vocabularies_of_their_own_are_refused(two):
    sources = (*two().sources, "facts: source=zipf-facts zipf_facts.tokens=1000")
    with pytest.raises(UserError, match="'facts' has a vocabulary of its own"):
        load(two(sources=sources, weights=(0.5, 0.25, 0.25)), seq_len=32)


def test_a_trained_tokenizer_is_one_for_all_and_the_same_for_all_weights(two):
    corpus = load(two(tokenizer="bpe", vocab_size=400), seq_len=32)
    text = b"the scaling of naive 42"
    assert corpus.decode(corpus.encode(text)) == text
    assert 257 < corpus.vocab_size <= 401 and corpus.bytes_per_token > 1.2
    words = corpus.decode(corpus.train)
    assert len(words) == corpus.train_bytes
    other = load(two(tokenizer="bpe", vocab_size=400, weights=(0.9, 0.1)), seq_len=32)
    assert other.fingerprint == corpus.fingerprint
    again = load(two(tokenizer="bpe", vocab_size=300), seq_len=32)
    assert again.vocab_size < corpus.vocab_size


@pytest.mark.parametrize("size", range(1, 16))
def test_the_sample_of_a_mixture_tokenizer_ends_between_characters(size):
    texts = ["né", "木曜日"]
    ids = [256, *texts[0].encode(), 256, *texts[1].encode(), 256]
    corpus = types.SimpleNamespace(
        train=np.array(ids), end_of_document=256, decode=lambda x: bytes(x.tolist())
    )
    found = [document.decode() for document in mixture_tokenizer._documents(corpus, size)]
    assert all(text.startswith(one) for text, one in zip(texts, found, strict=False)), found
    assert size < 14 or found == texts
