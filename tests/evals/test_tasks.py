"""Tasks: items by rule and from files, needle, memorization, n-grams and calibration by hand."""

import dataclasses
import gzip
import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
from scored_model import by_whole_pass, model

from gptjax import evals
from gptjax.data.sources.zipf_facts import ZipfFactsConfig
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.errors import UserError
from gptjax.evals import ngrams
from gptjax.evals.needle import FORM, haystack
from gptjax.evals.tasks import TASKS, documents_of, find, find_all, items
from gptjax.evals.tasks.files import read_items

MAKERS = {
    "arithmetic": items.arithmetic,
    "copying": items.copying,
    "agreement": items.agreement,
    "completion": items.completion,
    "facts": items.facts_of(ZipfFactsConfig(entities=64)),
}


@pytest.mark.parametrize("name", MAKERS)
def test_items_by_rule_are_the_same_again_and_their_answers_right(name):
    made = MAKERS[name](30, 1)
    assert made == MAKERS[name](30, 1) != MAKERS[name](30, 2) and len(made) == 30
    evals.tasks.choices.check(made, name)
    assert len({item.domain for item in made}) >= 2
    for item in made:
        assert RIGHT[name](item), item


def _copied(item):
    words = item.question.split()
    cycle = words.index(words[0], 1)
    return item.choices[item.answer] == words[len(words) - cycle]


RIGHT = {
    "arithmetic": lambda item: (
        sum(map(int, item.question[:-2].split("+"))) == int(item.choices[item.answer])
    ),
    "copying": _copied,
    "agreement": lambda item: (
        item.question.split()[1].endswith("s")
        == (item.choices[item.answer] in {v for _, v in items.VERBS})
    ),
    "completion": lambda item: all(choice.endswith("\n") for choice in item.choices),
    "facts": lambda item: len(item.choices[item.answer]) == 3,
}


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_files_of_items_in_their_layouts(tmp_path):
    own = [{"question": "1+1", "choices": ["3", "2"], "answer": a} for a in (1, "2", "B")]
    hella = [
        {
            "ctx": "A man [step] sits",
            "endings": ["on a chair", "in air"],
            "label": "1",
            "activity_label": "Sitting",
            "source_id": "x",
        }
    ]
    yaml = (
        "task: t\noutput_type: multiple_choice\ntest_split: test\n"
        "dataset_path: json\ndataset_kwargs:\n  data_files:\n    test: own.jsonl\n"
        "doc_to_text: '{{question}}='\ndoc_to_choice: '{{choices}}'\ndoc_to_target: 1\n"
    )
    (tmp_path / "task.yaml").write_text(yaml)
    write(tmp_path / "own.jsonl", own)
    settings = evals.EvalConfig(tasks=(str(tmp_path / "own.jsonl"), str(tmp_path / "task.yaml")))
    first, second = evals.evaluate(model(), settings)
    assert [row["answer"] for row in first.items] == [1, 1, 1] and first.task == "own"
    assert [row["question"] for row in second.items] == ["1+1="] * 3
    (found,) = evals.evaluate(
        model(), evals.EvalConfig(tasks=(write(tmp_path / "hella.jsonl", hella),))
    )
    assert found.items[0]["question"] == "Sitting: A man  sits".replace("  ", " ")
    assert (found.items[0]["answer"], found.items[0]["document"]) == (1, "x")


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "q", "choices": ["a", "b"], "answer": "c"}], "not among"),
        ([{"question": "q", "choices": ["a", ""], "answer": 0}], "none of them empty"),
        ([{"question": "q", "choices": ["a", "b"], "answer": 5}], "not among"),
        ([{"text": "q"}], "has the keys"),
        ([{"question": "q", "choices": "ab", "answer": 0}], "no list"),
        ([{"question": "q", "choices": {"text": ["a"]}, "answer": 0}], "no list"),
        ([{"question": None, "choices": ["a", "b"], "answer": 0}], "has null where a text"),
        ([{"question": "q", "choices": ["a", True], "answer": 0}], "has true where a text"),
        ([{"question": "q", "choices": ["a", float("nan")], "answer": 0}], "has NaN where a text"),
        ([{"question": "q", "choices": ["a", "b"], "answer": 0, "domain": ["x"]}], "where a text"),
        ([{"question": "q", "choices": ["a", "b"], "answer": -1}], "not among"),
        ([{"question": "q", "choices": ["a", "b"], "answer": None}], "not among"),
        ([{"ctx": "q", "endings": ["a", "b"], "label": ""}], "not among"),
        ([{"ctx": "q", "endings": ["a", "[x]"], "label": 0}], "none of them empty"),
        ([], "has no items"),
        ([{"question": "q", "choices": [1, 2, 3], "answer": 2}], "a place or one of the choices"),
        (
            [
                {"question": "q", "choices": ["x", "y"], "answer": "B"},
                {"question": "q", "choices": ["x", "y"], "answer": "x"},
                {"question": "q", "choices": ["B", "A"], "answer": "B"},
            ],
            "line 3 has the answer 'B', a choice's text and another one's letter",
        ),
        ([{"question": "q", "choices": ["a", "b"], "answer": 0}, {"question": "q"}], "line 2"),
    ],
)
def test_wrong_files_are_one_sentence(tmp_path, rows, words):
    with pytest.raises(UserError, match=words):
        find(write(tmp_path / "own.jsonl", rows))


def test_a_letter_among_letters_is_read_as_the_files_other_answers_are(tmp_path):
    """`B` was the choice "B" of a file whose answers are letters, so a right pick was wrong."""
    blood = {"question": "q", "choices": ["O", "A", "B"], "answer": "B", "domain": 0}
    letters = [blood, {"question": "q", "choices": ["x", "y", "z"], "answer": "C"}]
    texts = [blood, {"question": "q", "choices": ["x", "y", "z"], "answer": "z"}]
    for rows, answers in ((letters, [1, 2]), (texts, [2, 2]), ([blood], [2])):
        path = Path(write(tmp_path / "own.jsonl", rows))
        path.write_text("\ufeff" + path.read_text())
        found = read_items(path)
        assert [item.answer for item in found] == answers and found[0].domain == "0"


def test_two_tasks_of_one_name_are_refused(tmp_path):
    """Their scores stood in one column of a sweep, the last one's."""
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write(
            tmp_path / folder / "own.jsonl", [{"question": "", "choices": ["a", "b"], "answer": 0}]
        )
    paths = [str(tmp_path / folder / "own.jsonl") for folder in ("a", "b")]
    assert list(find_all([paths[0], paths[0], "needle"])) == ["own", "needle"]
    with pytest.raises(UserError, match="the name own, as another task does; rename"):
        find_all(paths)
    with pytest.raises(UserError, match="the name facts"):
        find_all(["facts", write(tmp_path / "facts.jsonl", [])])


def test_items_beyond_the_alphabet_have_no_letters():
    item = evals.Item("q", tuple(f"choice {n}" for n in range(27)), 26)
    with pytest.raises(UserError, match="has 26 letters, and an item has 27 choices"):
        evals.tasks.choices.evaluate(model(), [item], task="t", style="letter")


def test_an_item_without_a_document_is_its_own():
    """Item 0 was of the document "0" of another item, which changed the error by document."""
    plain = [evals.Item("q", ("a", "b"), n % 2) for n in range(3)]
    some = [dataclasses.replace(i, document=d) for i, d in zip(plain, ("", "0", "0"), strict=True)]
    made = evals.tasks.choices.evaluate(model(), some, task="t").metrics["answer_probability"]
    assert made.stderr_by_document > 0


def test_unknown_tasks_and_texts_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="did you mean arithmetic"):
        find("arithmetics")
    with pytest.raises(UserError, match="is no file"):
        find("there/is/none.jsonl")
    with pytest.raises(UserError, match="has no text"):
        documents_of(evals.EvalConfig(texts=(write(tmp_path / "a.jsonl", [{"words": "x"}]),)))
    for name, content, words in (
        ("a.json", b'{"text": "x"}', "give JSON lines"),
        ("a.jsonl.gz", gzip.compress(b'{"text": "x"}'), "give JSON lines"),
        ("a.txt", b"<!DOCTYPE html>", "^evaluate.texts: .*; extract its text, or leave it out$"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=words):
            documents_of(evals.EvalConfig(texts=(str(tmp_path / name),)))
    (tmp_path / "b.gz").write_bytes(gzip.compress(b"words"))
    (found,) = documents_of(evals.EvalConfig(texts=(str(tmp_path / "b.gz"),)))
    assert (found.text, found.domain) == ("words", "b")
    assert {document.domain for document in documents_of(evals.EvalConfig())} == {"python-stdlib"}
    assert "needle" in TASKS


def test_a_needle_lies_where_it_is_said_and_guesses_are_at_chance():
    found = evals.needle(
        model(), "abc def " * 9, lengths=(48, 64, 99), repeats=6, depths=(0.0, 1.0)
    )
    assert found.curve["lengths"] == [48, 64] and found.skipped == 1
    assert np.shape(found.curve["rate"]) == (2, 2) and len(found.items) == 24
    assert found.score.value == np.mean([row["pick"] == row["value"] for row in found.items])
    assert found.score.value < 0.5
    for depth, first_half in ((0.0, True), (1.0, False)):
        ids, value, _ = haystack(model(), "abc def " * 9, 48, depth, FORM, random.Random(1))
        assert (ids.index(48 + int(value)) < 24) == first_half
    with pytest.raises(UserError, match="no room for a needle"):
        evals.needle(model(), "abc", lengths=(16,))


class JoinsSpaces(ByteTokenizer):
    """A space and the digit after it are one token, as in the tokenizers of the field."""

    def encode(self, documents):
        for ids in super().encode(documents):
            row = ids.tolist()
            for i in range(len(row) - 1, 0, -1):
                if row[i - 1] == 32 and 48 <= row[i] < 58:
                    row[i - 1 : i + 1] = [128 + row[i]]
            yield np.array(row)


def test_a_needle_is_asked_for_by_the_tokens_that_hid_it():
    joined = dataclasses.replace(model(), tokenizer=JoinsSpaces())
    for one, tokens in ((joined, [(128 + 48 + d,) for d in range(10)]), (model(), None)):
        ids, value, endings = haystack(one, "abc def ", 40, 0.5, FORM, random.Random(1))
        assert endings == (tokens or [(48 + d,) for d in range(10)])
        assert endings[int(value)][0] in ids and len(ids) + 1 <= 41


def test_memorization_is_the_greedy_continuation_and_the_ratio_by_hand():
    texts = ["abcdefghij", "0123456789", "zyxwvutsrq", "short"]
    found = evals.memorization(model(), texts, prefix=4, length=4, others=2)
    assert found.skipped == 1 and len(found.items) == 3
    ids = [256, *texts[0].encode()]
    others = [list(text.encode()[4:8]) for text in texts[1:3]]
    true = by_whole_pass(ids[:5], ids[5:9]).sum()
    rest = np.mean([by_whole_pass(ids[:5], other).sum() for other in others])
    assert found.items[0]["log_ratio"] == pytest.approx(true - rest, abs=1e-3)
    with pytest.raises(UserError, match="give two or more"):
        evals.memorization(model(), texts[:1], prefix=4, length=4)


def test_exposure_is_the_rank_among_all_candidates():
    bits, rank, count = evals.exposure(model(), "pin ", "01", alphabet="01")
    totals = [by_whole_pass(b"pin", f" {a}{b}".encode()).sum() for a in "01" for b in "01"]
    assert rank == 1 + sum(t > totals[1] for t in totals) and count == 4
    assert bits == pytest.approx(2 - math.log2(rank))
    with pytest.raises(UserError, match="not written in"):
        evals.exposure(model(), "pin ", "a")


def test_five_grams_of_a_markov_source_approach_the_exact_divergence():
    rng = np.random.default_rng(0)
    data, other = (np.array([[a, 1 - a], [1 - b, b]]) for a, b in ((0.7, 0.6), (0.4, 0.5)))

    def walk(chain, count):
        row = [0]
        for u in rng.random(count):
            row.append(int(u > chain[row[-1], 0]))
        return row

    def stationary(chain):
        return np.linalg.matrix_power(chain, 60)[0]

    exact = ngrams.of_markov(data, other, stationary(data), stationary(other))
    gaps = []
    for count in (2_000, 60_000):
        found = ngrams.divergence(walk(data, count), walk(other, count))
        gaps.append((abs(found.value - exact), found.floor))
    assert gaps[1][0] < 0.02 and gaps[1][1] < gaps[0][1] < 0.1
    assert ngrams.of_markov(data, data, stationary(data), stationary(data)) == 0.0
    by_hand = ngrams.smoothed(ngrams.counts([0, 0, 1], 1), ngrams.counts([0, 1], 1), 1.0)
    assert by_hand == pytest.approx(2 / 3 * np.log(2 / 3 / 0.5) + 1 / 3 * np.log(1 / 3 / 0.5))
    with pytest.raises(UserError, match="too few 5-grams"):
        ngrams.divergence([1, 2], [1])


def test_calibration_by_hand():
    rows = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.3, 0.7]]
    found = evals.calibration(rows, [0, 1, 0, 1], bins=5)
    assert [bar.count for bar in found.bins] == [1, 2, 1]
    brier = np.mean([0.02, 1.28, 0.32, 0.18])
    assert found.brier == pytest.approx(brier)
    assert found.nll == pytest.approx(-np.mean(np.log([0.9, 0.2, 0.6, 0.7])))
    ece = sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in found.bins) / 4
    assert found.ece == pytest.approx(ece) == pytest.approx((0.4 + 2 * 0.25 + 0.1) / 4)
    with pytest.raises(UserError, match="give one of each"):
        evals.calibration(rows, [0])


def test_calibration_is_scikit_learns():
    metrics = pytest.importorskip("sklearn.metrics")
    curves = pytest.importorskip("sklearn.calibration")
    rng = np.random.default_rng(0)
    p = rng.random(2000)
    y = (rng.random(2000) < p**2).astype(int)
    bars = evals.reliability(p, y.astype(float), 10)
    share, middle = curves.calibration_curve(y, p, n_bins=10)
    np.testing.assert_allclose([bar.accuracy for bar in bars], share)
    np.testing.assert_allclose([bar.confidence for bar in bars], middle)
    found = evals.calibration(np.stack([1 - p, p], 1), y)
    assert found.brier == pytest.approx(2 * metrics.brier_score_loss(y, p))


def test_a_known_miscalibration_is_recovered():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 4)) * 2
    p = np.exp(logits - np.logaddexp.reduce(logits, axis=1, keepdims=True))
    answers = [int(rng.choice(4, p=row)) for row in p]
    sharp = 2.5 * logits
    t = evals.fit_temperature(sharp, answers)
    assert t == pytest.approx(2.5, rel=0.05)
    before = evals.calibration(evals.tempered(sharp, 1.0), answers).ece
    after = evals.calibration(evals.tempered(sharp, t), answers).ece
    assert after < 0.03 < 0.1 < before
    crossed = evals.cross_tempered(sharp, answers)
    assert evals.calibration(crossed, answers).ece < 0.03


def test_no_item_is_judged_by_a_temperature_that_saw_its_answer():
    log_p, answers = np.log([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2], [0.7, 0.3]]), [0, 1, 0, 1]
    rows = evals.cross_tempered(log_p, answers)
    other = evals.cross_tempered(log_p, [1, 1, 0, 1])
    np.testing.assert_array_equal([rows[0], rows[2]], [other[0], other[2]])
    assert np.all(rows[1] != other[1]) and np.all(rows[3] != other[3])
    np.testing.assert_allclose(evals.cross_tempered(log_p[:1], [0])[0], [0.9, 0.1])
