"""Files of prompts: what ends a line, and mistakes with the file and the line in one sentence."""

import json
import os

import pytest
import tokenizers

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.data.tokenizers.huggingface import JsonTokenizer
from gptjax.errors import UserError
from gptjax.infer.generate import encoded
from gptjax.infer.prompts import check_paths, read_prompts, write_rows
from gptjax.jobs import rag

CONFIG = models.ModelConfig(vocab_size=257, depth=1, width=8, num_heads=2, seq_len=64)
MODEL = infer.Model(CONFIG, {}, ByteTokenizer())


@pytest.mark.parametrize("name", ["in.jsonl", "in.txt"])
def test_only_a_line_feed_ends_a_line(tmp_path, name):
    texts = ["a\u2028b\u0085c\x0cd", "e"]
    lines = [f'{{"prompt": "{t}"}}'.replace("\x0c", "\\f") for t in texts]
    (tmp_path / name).write_text("\r\n".join(lines if name == "in.jsonl" else texts))
    assert [one.prompt for one in read_prompts(tmp_path / name, MODEL)] == texts


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("[" * 200_000, "line 2 is not JSON (maximum recursion depth"),
        (r'{"prompt": "\ud800"}', "line 2 has half a surrogate pair"),
        (r'{"prompt": "a", "id": "\ud800"}', "line 2 has half a surrogate pair"),
        ('["a"]', "line 2 is no object"),
        ('{"tokens": [1, 2.5]}', "line 2 has tokens that are no whole numbers"),
        ('{"tokens": [true]}', "line 2 has tokens that are no whole numbers"),
        ('{"prompt": "a", "adapter": {}}', "line 2 has an adapter that is no text"),
        ('{"prompt": "a", "id": NaN}', "line 2 is not JSON (NaN is no number of JSON)"),
        ('{"promt": "a"}', "line 2 has neither prompt, messages nor tokens; did you mean prompt?"),
    ],
)
def test_a_line_that_is_no_prompt_is_told(tmp_path, line, words):
    (tmp_path / "in.jsonl").write_text('{"prompt": "a"}\n' + line)
    with pytest.raises(UserError) as error:
        read_prompts(tmp_path / "in.jsonl", MODEL)
    assert words in str(error.value)


def test_half_a_surrogate_pair_is_told_of_any_prompt():
    with pytest.raises(UserError, match="half a surrogate pair as character 2"):
        MODEL.encode("a\ud800")


def test_characters_that_the_tokenizer_does_not_know_are_told():
    """They would be one token, whatever they are."""
    bpe = tokenizers.models.BPE({"a": 0, "b": 1, "<unk>": 2}, [], unk_token="<unk>")
    known = JsonTokenizer(tokenizers.Tokenizer(bpe))
    model = infer.Model(CONFIG, {}, known, name="tiny")
    assert encoded(model, "ab") == [0, 1]
    with pytest.raises(UserError, match="has 'ж', which the tokenizer of tiny does not know"):
        encoded(model, "abжa")
    with pytest.raises(UserError, match="one that is none"):
        encoded(model, [0, 1.5])


def test_a_text_may_write_the_unknown_token_itself():
    words = tokenizers.models.WordLevel({"a": 0, "[UNK]": 1, "b": 2}, unk_token="[UNK]")
    split = tokenizers.Tokenizer(words)
    split.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    model = infer.Model(CONFIG, {}, JsonTokenizer(split), name="tiny")
    assert encoded(model, "a [UNK] b") == [0, 1, 2]
    with pytest.raises(UserError, match="has 'c', which"):
        encoded(model, "a [UNK] c")


def test_an_output_that_cannot_be_written_is_told_before_anything_is_made(tmp_path):
    """A device too, in whose place there would be a file."""
    for path, words in (
        (tmp_path, "is a directory"),
        ("/dev/null", "is a device"),
        (tmp_path / ("x" * 300), "cannot be written"),
        (f"{tmp_path}/a\0b", "cannot be written"),
        (tmp_path / "no" / "x.jsonl", "is in no folder"),
    ):
        with pytest.raises(UserError, match=words):
            check_paths("sample", "", str(path))
    check_paths("sample", "", str(tmp_path / "x.jsonl"))
    assert [*tmp_path.iterdir()] == []
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="is a named pipe"):
        write_rows(str(tmp_path / "pipe"), [{}])
    assert (tmp_path / "pipe").is_fifo()


def test_questions_are_lines_of_prompts_with_a_text(tmp_path):
    rows = [{"prompt": "a\u2028b", "answer": "c", "id": 7}, {"tokens": [1]}]
    file = tmp_path / "ask.jsonl"
    file.write_text(json.dumps(rows[0], ensure_ascii=False))
    assert rag._questions(rag.Settings(questions=str(file))) == rows[:1]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"ask.jsonl line 2 has no text as prompt; write lines"):
        rag._questions(rag.Settings(questions=str(file)))
