"""Files of examples: the spellings of plain, conversational and preference lines."""

import pytest
from aligned import write

from gptjax.align import examples
from gptjax.errors import UserError

ASK = {"role": "user", "content": "2+2?"}
SYSTEM = {"role": "system", "content": "be brief"}


def says(content):
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "2+2?"),
        ({"prompt": [ASK], "chosen": "4", "rejected": "5"}, (ASK,)),
        ({"prompt": [ASK], "chosen": [says("4")], "rejected": [says("5")]}, (ASK,)),
        ({"chosen": [ASK, says("4")], "rejected": [ASK, says("5")]}, (ASK,)),
        (
            {"prompt": "2+2?", "chosen": [SYSTEM, ASK, says("4")]}
            | {"rejected": [SYSTEM, ASK, says("5")], "score_chosen": 8.0},
            (SYSTEM, ASK),
        ),
        ({"prompt": [ASK], "chosen": [ASK, says("4")], "rejected": [says("5")]}, (ASK,)),
    ],
)
def test_preferences_are_read_in_the_forms_that_data_sets_have(tmp_path, line, prompt):
    (found,) = examples.read_preferences(str(write(tmp_path / "x.jsonl", [line])))
    assert found.prompt == prompt and found.answers == ("4", "5")


@pytest.mark.parametrize(
    ("line", "prompt"),
    [
        ({"prompt": "2+2?", "completion": "4"}, "2+2?"),
        ({"prompt": [ASK], "completion": [says("4")]}, (ASK,)),
        ({"prompt": [ASK], "response": "4"}, (ASK,)),
    ],
)
def test_answers_are_read_under_both_names(tmp_path, line, prompt):
    (found,) = examples.read_answered(str(write(tmp_path / "x.jsonl", [line])))
    assert found.prompt == prompt and found.answers == ("4",)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ({"chosen": [ASK, says("4")], "rejected": [SYSTEM, says("5")]}, "differ before the last"),
        ({"chosen": [says("4")], "rejected": [says("5")]}, "no prompt before an answer"),
        ({"chosen": [says("4"), ASK], "rejected": [says("5"), ASK]}, "end chosen with"),
        ({"prompt": "no", "chosen": [ASK, says("4")], "rejected": [ASK, says("5")]}, "no message"),
        ({"prompt": [SYSTEM], "chosen": [ASK, says("4")], "rejected": [says("5")]}, "begin with"),
        ({"chosen": [ASK, says("4")], "rejected": [ASK, says("4")]}, "prefers none"),
        ({"chosen": [ASK, says("4")], "rejected": "5"}, "no list"),
        ({"prompt": "2+2?", "chosen": "4", "rejected": [ASK, says("5")]}, "a list as rejected"),
    ],
)
def test_conversations_that_are_no_preference_are_refused_by_their_line(tmp_path, line, words):
    with pytest.raises(UserError, match=f"line 1.*{words}"):
        examples.read_preferences(str(write(tmp_path / "x.jsonl", [line])))
