"""Files of prompts: what ends a line, and mistakes with the file and the line in one sentence."""

import json

import pytest
import tokenizers

from gptjax import infer, models
from gptjax.data.tokenizers.byte import ByteTokenizer
from gptjax.data.tokenizers.huggingface import JsonTokenizer
from gptjax.errors import UserError
from gptjax.infer.generate import encoded
from gptjax.infer.prompts import read_prompts
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


def test_questions_are_lines_of_prompts_with_a_text(tmp_path):
    rows = [{"prompt": "a\u2028b", "answer": "c", "id": 7}, {"tokens": [1]}]
    file = tmp_path / "ask.jsonl"
    file.write_text(json.dumps(rows[0], ensure_ascii=False))
    assert rag._questions(rag.Settings(questions=str(file))) == rows[:1]
    file.write_text("\n".join(map(json.dumps, rows)))
    with pytest.raises(UserError, match=r"ask.jsonl line 2 has no text as prompt; write lines"):
        rag._questions(rag.Settings(questions=str(file)))
