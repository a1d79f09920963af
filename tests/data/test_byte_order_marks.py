"""Texts that begin with a byte order mark: the mark is no text, whoever reads the file."""

import codecs
import json

import pytest

from gptjax.align import constitution
from gptjax.data.clean import readers, word_list
from gptjax.data.sources.jsonl import jsonl
from gptjax.data.sources.text import text
from gptjax.data.text_check import utf8
from gptjax.errors import UserError
from gptjax.evals.tasks import _texts
from gptjax.evals.tasks import files as task_files
from gptjax.evals.tasks.harness_file import _parsed
from gptjax.infer.prompts import read_rows

PRINCIPLE = "critique: Right?\nkept: Yes\nviolated: No\nrevision: Mend it.\n"
HARNESS = "output_type: multiple_choice\ntask: a\ndataset_kwargs: {}\ndoc_to_text: q\n"
HARNESS += "doc_to_choice: c\ndoc_to_target: t\n"
LINE = json.dumps({"text": "a text", "prompt": "a"}) + "\n"


def cleaned(path):
    return [one.text for one in readers.documents(path, readers.Broken(), strict=True)]


READ = {
    "data.source=text": ("a.txt", "a text", lambda path: list(text(str(path), 100).read())),
    "data.source=jsonl": ("a.jsonl", LINE, lambda path: list(jsonl(str(path), "text").read())),
    "clean.input, a text": ("a.txt", "a text", cleaned),
    "clean.input, lines": ("a.jsonl", LINE, cleaned),
    "clean.contamination": ("a.txt", "a text", lambda path: list(readers.text_files(str(path)))),
    "clean.word_list": ("a.txt", "bad\n", lambda path: word_list.read(str(path))),
    "align.constitution": ("a.txt", PRINCIPLE, lambda path: constitution.read(str(path))),
    "prompts": ("a.txt", "a prompt\n", read_rows),
    "prompts in lines": ("a.jsonl", LINE, read_rows),
    "evaluate.texts": ("a.txt", "a text", lambda path: list(_texts(path))),
    "evaluate.tasks": ("a.jsonl", LINE, task_files.read_rows),
    "a task of lm-eval": ("a.yaml", HARNESS, _parsed),
}


@pytest.mark.parametrize("name", READ)
def test_a_byte_order_mark_is_not_read_as_text(tmp_path, name):
    file, content, read = READ[name]
    (tmp_path / file).write_bytes(content.encode())
    plain = read(tmp_path / file)
    (tmp_path / file).write_bytes(codecs.BOM_UTF8 + content.encode())
    assert plain and read(tmp_path / file) == plain


def test_a_kind_of_file_is_known_behind_a_mark(tmp_path):
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"{\\rtf1 words}")
    with pytest.raises(UserError, match="RTF"):
        list(text(str(tmp_path / "a.txt"), 0).read())


def test_a_mark_inside_of_a_text_stays():
    inside = "a\ufeffb".encode()
    assert b"".join(utf8([b"", inside, codecs.BOM_UTF8], "a")) == inside + codecs.BOM_UTF8
