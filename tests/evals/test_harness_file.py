"""Tasks of lm-evaluation-harness from YAML: templates as it fills them, other keys by name."""

import json

import numpy as np
import pytest
from scored_model import model

from gptjax.errors import UserError
from gptjax.evals import choices
from gptjax.evals.tasks import find
from gptjax.evals.tasks.harness_file import read_task

ROWS = [
    {"q": "é — one", "options": ["2", "1", "0"], "right": "2", "place": 0, "gold": 1},
    {
        "q": "it's\n two",
        "options": ["it's", 'say "a\\n"', "c"],
        "right": "c",
        "place": 2,
        "gold": 1,
    },
]
BASE = {
    "task": "t",
    "output_type": "multiple_choice",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl", "dev": "dev.jsonl"}},
    "test_split": "test",
    "doc_to_text": "{{q}}?",
    "doc_to_choice": "{{options}}",
    "doc_to_target": "right",
    "metric_list": [{"metric": "acc", "aggregation": "mean"}, {"metric": "acc_norm"}],
    "metadata": {"version": 1.0},
}


@pytest.fixture
def write(tmp_path):
    def made(changes=None, text=""):
        for name in ("rows", "dev"):
            lines = "".join(json.dumps(row) + "\n" for row in ROWS)
            (tmp_path / f"{name}.jsonl").write_text(lines)
        path = tmp_path / "task.yaml"
        path.write_text(text or json.dumps(BASE | (changes or {})))
        return path

    return made


@pytest.mark.parametrize(
    ("changes", "answers"),
    [
        ({}, [0, 2]),  # a column's text, though it looks like a place
        ({"doc_to_target": "{{gold}}"}, [1, 1]),  # a template's digits are a place
        ({"doc_to_target": "gold"}, [1, 1]),
        ({"doc_to_target": "{{options[0]}}", "doc_to_choice": "options"}, [2, 0]),
        ({"doc_to_target": 1, "num_fewshot": 0, "repeats": 1}, [1, 1]),
        ({"doc_to_target": 2, "doc_to_choice": ["x", "y", "{{q}}"]}, [2, 2]),
        ({"doc_to_target": 0, "doc_to_choice": {"a": "x", "b": "y"}}, [0, 0]),
    ],
)
def test_answers_are_those_of_the_harness(write, changes, answers):
    found = read_task(write(changes))
    assert [item.answer for item in found.items] == answers
    assert found.items[0].question == "é — one?" and found.style == "continuation"
    if "doc_to_choice" not in changes:
        assert [list(item.choices) for item in found.items] == [row["options"] for row in ROWS]
    else:
        assert "{{q}}" in found.items[0].choices or "{{q}}" not in str(changes)


def test_examples_of_a_split_of_their_own_and_a_description(write):
    path = write({"fewshot_split": "dev", "description": "Say.", "target_delimiter": ""})
    found = read_task(path)
    assert len(found.examples) == 2 and found.style == "joined"
    assert found.descriptions == ("Say.", "Say.") and find(str(path)).shots


@pytest.mark.parametrize("split", ["training_split", "fewshot_split"])
def test_examples_come_from_the_split_that_the_harness_takes_them_from(write, split):
    assert len(read_task(write({split: "dev", "validation_split": "test"})).examples) == 2
    assert not read_task(write({"validation_split": "test"})).examples


def test_a_description_is_filled_for_each_item(write):
    """It was written out with its braces before every item."""
    found = read_task(write({"description": "{{options[0]}} of {{place}}: "}))
    assert found.descriptions == ("2 of 0: ", "it's of 2: ")
    found = choices.evaluate(
        model(),
        [choices.Item("q", ("a", "b"), 0), choices.Item("r", ("a", "b"), 1)],
        task="t",
        shots=1,
        before=("One. ", "Two, longer. "),
    )
    alone = choices.evaluate(
        model(), [choices.Item("Two, longer. q a\n\nr", ("a", "b"), 1)], task="t"
    )
    np.testing.assert_allclose(found.items[1]["logprobs"], alone.items[0]["logprobs"], rtol=1e-5)


def test_a_row_without_the_column_is_no_text_of_the_columns_name(write, tmp_path):
    path = write({"doc_to_text": "q"})
    (tmp_path / "rows.jsonl").write_text(
        json.dumps(ROWS[0]) + "\n" + json.dumps({k: v for k, v in ROWS[1].items() if k != "q"})
    )
    with pytest.raises(UserError, match="item 2 lacks q, the column of doc_to_text"):
        read_task(path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"metric_list": [{"metric": "exact_match"}]}, "has metric_list=.* give acc and acc_norm"),
        ({"metric_list": [{"metric": "acc", "aggregation": "median"}]}, "by their mean"),
        ({"filter_list": [{"name": "x"}]}, "filter_list=.* which is not read; remove it"),
        ({"num_fewshot": 5}, "num_fewshot=5, .*set evaluate.shots"),
        ({"fewshot_config": {"sampler": "default"}}, "sampler: first_n"),
        ({"process_docs": "utils.f"}, "has process_docs, which is not read; remove it, or score"),
        ({"gen_prefix": "A"}, "has gen_prefix, which is not read"),
        ({"target_delimiter": ":"}, "give ' ' or ''"),
        ({"doc_to_text": "{{question}}"}, "item 1 does not fit the template '{{question}}'"),
        ({"doc_to_text": "{{q"}, "item 1 does not fit the template"),
        ({"doc_to_choice": "{{q}}"}, "no list"),
        ({"doc_to_target": "A"}, "has the answer 'A', which is not among"),
        ({"doc_to_target": 7}, "has the answer 7"),
        ({"test_split": "train"}, "names no file for the split train"),
        ({"dataset_kwargs": None}, "names no file for the split test"),
        ({"dataset_kwargs": {"data_files": "none.jsonl"}}, "is no file"),
        ({"output_type": "generate_until"}, "no task with .*gptjax.evals.lm_eval"),
        ({"dataset_path": "csv"}, "reads dataset_path='csv'"),
        (
            {"dataset_kwargs": {"data_files": "rows.jsonl", "field": "x"}},
            r"with dataset_kwargs \['field'\]",
        ),
    ],
)
def test_what_is_not_read_is_refused_by_its_name(write, changes, words):
    with pytest.raises(UserError, match=words):
        find(str(write(changes)))


def test_a_function_of_python_is_refused(write):
    with pytest.raises(UserError, match="without !function"):
        find(str(write(text="output_type: multiple_choice\nprocess_docs: !function utils.f\n")))
