"""Duplicates: signatures against exact Jaccard, chains, first copies, spans, in passes."""

import itertools

import numpy as np
import pytest

from gptjax.data.clean import duplicates, minhash, spans

NEAR = minhash.NearConfig()


def versions(count, words=120, seed=0, most=0.35):
    """Texts of which each has some words of the first replaced, from none to most."""
    rng = np.random.default_rng(seed)
    base = [f"w{i}" for i in range(words)]
    found = []
    for changed in np.linspace(0, most, count):
        gone = rng.random(words) < changed
        found.append(
            " ".join(
                f"x{rng.integers(1 << 30)}" if g else w for w, g in zip(base, gone, strict=True)
            )
        )
    return found


def exact(one, other):
    signer = minhash.Signer(NEAR)
    a, b = (set(signer.grams(text).tolist()) for text in (one, other))
    return len(a & b) / len(a | b)


def test_signatures_estimate_the_jaccard_similarity():
    """112 numbers: a standard error of sqrt(s (1 − s) / 112), at most .047."""
    texts, signer = versions(60), minhash.Signer(NEAR)
    signs = [signer.sign(text) for text in texts]
    errors = [
        minhash.similarity(signs[0], sign) - exact(texts[0], text)
        for sign, text in zip(signs, texts, strict=True)
    ]
    assert abs(np.mean(errors)) < 0.03 and np.std(errors) < 0.06 and errors[0] == 0


def test_bands_find_pairs_with_the_probability_of_the_formula():
    """1 − (1 − s^r)^b, with the bands of independent documents as the draws."""
    config = minhash.NearConfig(bands=200, rows=3)
    texts, signer = versions(30, words=400, seed=1), minhash.Signer(config)
    first, *others = (signer.sign(text)[None] for text in texts)
    for sign, text in zip(others, texts[1:], strict=True):
        same = [
            minhash.band_hashes(first, b, 3)[0] == minhash.band_hashes(sign, b, 3)[0]
            for b in range(200)
        ]
        probability = exact(texts[0], text) ** 3
        assert abs(np.mean(same) - probability) < 4.5 * np.sqrt(0.25 / 200)


def test_a_text_has_the_same_signature_on_every_machine():
    sign = minhash.Signer(NEAR).sign("the same text on every machine, today and tomorrow")
    assert sign[:4].tolist() == GOLDEN_SIGNATURE
    signer = minhash.Signer(NEAR)
    assert (signer.sign("A b, C") == signer.sign("a B c!")).all()
    assert len(signer.grams("")) == 0 and len(signer.grams("one two")) == 1


GOLDEN_SIGNATURE = [1052309656, 151838469, 804996821, 1057118946]


def near(texts, tasks=1, **settings):
    config = minhash.NearConfig(**settings)
    signer = minhash.Signer(config)
    signs = np.array([signer.sign(text) for text in texts])
    alive = np.ones(len(texts), bool)
    return duplicates.near_copies(np.array_split(signs, tasks), alive, config)


def test_near_copies_of_a_first_are_dropped():
    texts = versions(2) + ["another text " + str(i) * 9 + " that is alone here" for i in range(3)]
    texts += [texts[0] + " and more", texts[3]]
    for tasks in (1, 3):
        dropped = near(texts, tasks)
        assert dropped.tolist() == [False, False, False, False, False, True, True]


def test_a_chain_of_likenesses_does_not_swallow_a_source():
    """Each text shares three quarters of its n-grams with the next; the ends share none."""
    words = [f"w{i}" for i in range(3000)]
    texts = [" ".join(words[i : i + 120]) for i in range(0, 1500, 15)]
    assert exact(texts[0], texts[1]) > 0.75 and exact(texts[0], texts[9]) == 0
    dropped = near(texts, bands=40, rows=4)
    assert 0.35 < dropped.mean() < 0.75  # connected components would drop all but one
    kept = [text for text, gone in zip(texts, dropped, strict=True) if not gone]
    assert all(any(exact(text, one) > 0.6 for one in kept) for text in texts)


def test_the_first_of_equal_hashes_stays_whatever_the_passes(monkeypatch):
    rng = np.random.default_rng(3)
    hashes = rng.integers(0, 40, 500).astype(np.uint64)
    alive = rng.random(500) < 0.8
    seen, wanted = set(), np.zeros(500, bool)
    for i, value in enumerate(hashes.tolist()):
        if alive[i] and value:
            wanted[i] = value in seen
            seen.add(value)
    for size in (1000, 60):
        monkeypatch.setattr(duplicates, "PASS", size)
        found = duplicates.later_copies(lambda: iter(np.array_split(hashes, 7)), alive)
        assert (found == wanted).all()


def test_spans_that_came_before_are_found_and_taken_out(monkeypatch):
    a, b, c, d, e, f = (f"Sentence {name} is here." for name in "abcdef")
    texts = [f"{a} {b} {c} {d}", f"{e} {f}", f"{e} {a}\n{b} {C_UPPER} {f}", f"{a} {b} {e}"]
    hashed = [spans.hashes_of(text, 3) for text in texts]
    assert [len(one) for one in hashed] == [2, 0, 3, 1]
    counts = np.array([len(one) for one in hashed], np.int64)

    def blocks():
        yield np.concatenate(hashed[:2]), counts[:2]
        yield np.concatenate(hashed[2:]), counts[2:]

    for size in (1000, 2):
        monkeypatch.setattr(duplicates, "PASS", size)
        found = list(duplicates.repeated_spans(blocks, np.ones(4, bool)))
        assert [(number, rows.tolist()) for number, rows in found] == [(2, [1])]
    assert spans.without(texts[2], np.array([1]), 3) == f"{e} {f}"
    dead = np.array([False, True, True, True])
    assert not list(duplicates.repeated_spans(blocks, dead))


C_UPPER = "SENTENCE C  is here."


def test_overlapping_spans_take_each_sentence_once():
    text = "One. Two. Three. Four. Five."
    assert spans.without(text, np.array([0, 1]), 3) == "Five."
    assert "".join(text[a:b] for a, b in spans.places_of(text)) == text


@pytest.mark.parametrize("threshold", (0.5, 0.7))
def test_recall_and_precision_against_exact_jaccard(threshold):
    """Pairs of one family of texts; docs/cleaning.md has the curve."""
    texts = versions(40, seed=5, most=0.12)
    config = minhash.NearConfig(bands=28, rows=4, threshold=threshold)
    signer = minhash.Signer(config)
    signs = np.array([signer.sign(text) for text in texts])
    true = {
        (i, j)
        for i, j in itertools.combinations(range(40), 2)
        if exact(texts[i], texts[j]) >= threshold
    }
    found = {
        (i, j)
        for i, j in itertools.combinations(range(40), 2)
        if minhash.similarity(signs[i], signs[j]) >= threshold
        and any(
            minhash.band_hashes(signs[[i]], b, 4) == minhash.band_hashes(signs[[j]], b, 4)
            for b in range(28)
        )
    }
    assert len(true) > 30
    assert len(found & true) >= 0.8 * len(true) and len(found & true) >= 0.7 * len(found)
