"""Records of a cleaning: nothing of them is lost, and what is written is JSON."""

import json
import os
import tarfile

import numpy as np
import pytest
import zstandard

from gptjax.config import make_config
from gptjax.data.clean import judged, readers
from gptjax.data.clean.pipeline import clean
from gptjax.data.clean.writers import as_json
from gptjax.errors import UserError


def cleaned(folder, lines, output="out", **settings):
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "a.jsonl").write_text(lines)
    own = {"input": str(folder / "in"), "workers": 1, "stages": ("exact",), **settings}
    config = make_config({"job": "clean", "clean": own}).own["clean"]
    clean(config, folder / output, lambda words: None)
    written = b"".join(
        zstandard.ZstdDecompressor().stream_reader(shard.read_bytes()).read()
        for shard in sorted((folder / output).glob("*.zst"))
    )
    return [json.loads(line, parse_constant=pytest.fail) for line in written.splitlines()]


def test_whatever_a_record_holds_is_written(tmp_path):
    record = {
        "id": 17,
        "text": "one",
        "content": "two",
        "source": {"name": "web"},
        "url": None,
        "score": float("nan"),
        "all": [1, float("-inf")],
    }
    (found,) = cleaned(tmp_path, json.dumps(record))
    assert found == {
        "text": "one",
        "id": "17",
        "source": "in",
        "metadata": {
            "content": "two",
            "source": {"name": "web"},
            "score": None,
            "all": [1, None],
        },
    }


def test_ids_tell_files_and_members_of_one_name_apart(tmp_path):
    for place in ("in/a", "in/b"):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "x.txt").write_text(place)
        with tarfile.open(tmp_path / place / "y.tar", "w") as archive:
            archive.add(tmp_path / place / "x.txt", "in/x.txt")
    wanted = ["a/x.txt#1", "a/y.tar:in/x.txt#1", "b/x.txt#1", "b/y.tar:in/x.txt#1"]
    for path in ("in", "in/*/*", "in/**/*"):
        root = readers.root_of(str(tmp_path / path))
        ids = [
            one.id
            for file in readers.find(str(tmp_path / path))
            for one in readers.documents(file, readers.Broken(), strict=True, root=root)
        ]
        assert ids == wanted
    alone = tmp_path / "in" / "a" / "x.txt"
    (one,) = readers.documents(
        alone, readers.Broken(), strict=True, root=readers.root_of(str(alone))
    )
    assert one.id == "x.txt#1"


def test_an_id_is_a_text_or_a_whole_number():
    said = [{"text": "a", "id": one} for one in ("x", 0, True, 1.5)]
    assert [readers.document_of(one, "a#1", "s").id for one in said] == ["x", "0", "a#1", "a#1"]


def test_there_may_be_more_sources_than_two_bytes_count():
    assert np.array([(0, 2**16, 0, 0, 0, 0, 0)], judged.FACTS)["source"] == 2**16


def test_numbers_that_are_not_finite_are_null():
    assert as_json({"a": 1.5, "b": [float("inf")]}) == '{"a": 1.5, "b": [null]}'


@pytest.mark.parametrize(
    ("content", "words"),
    [('[{"text": "one"}]', "array"), ('\n{\n  "text": "one"\n}\n', "object")],
)
def test_a_file_of_one_value_is_refused(tmp_path, content, words):
    with pytest.raises(UserError, match=rf"clean\.input: .*a\.jsonl' is one JSON {words}"):
        cleaned(tmp_path, content)


def test_a_name_that_is_no_text_is_told_in_an_id(tmp_path):
    folder = tmp_path / os.fsdecode(b"b\xff")
    folder.mkdir()
    file = folder / os.fsdecode(b"a\xfe.jsonl")
    file.write_text('{"text": "one"}\n')
    (found,) = readers.documents(file, readers.Broken(), strict=True)
    assert (found.id, found.source) == (r"a\xfe.jsonl#1", r"b\xff")


def test_a_broken_line_of_an_evaluation_file_is_refused(tmp_path):
    (tmp_path / "held.jsonl").write_text('{"question": "one"}\nnot JSON\n')
    with pytest.raises(UserError, match=r"held\.jsonl line 2 is no JSON") as caught:
        list(readers.text_files(str(tmp_path / "held.jsonl")))
    assert "clean.strict" not in str(caught.value)
    (tmp_path / "held.json").write_text('[{"question": "one"}]')
    with pytest.raises(UserError, match=r"clean\.contamination\.path: .*array"):
        list(readers.text_files(str(tmp_path / "held.json")))


def test_a_kind_of_file_that_is_no_text_is_named_by_the_setting(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"PK\x03\x04")
    with pytest.raises(UserError, match=r"^clean\.input: .* a zip archive"):
        list(readers.documents(tmp_path / "a.jsonl", readers.Broken(), strict=False))


def test_another_word_list_makes_another_output(tmp_path):
    path = tmp_path / "words"
    asked = {"stages": ("word_list",), "word_list": {"path": str(path)}}
    lines = '{"text": "a good word"}\n{"text": "a bad word"}\n'
    path.write_text("bad\n")
    assert [one["text"] for one in cleaned(tmp_path, lines, **asked)] == ["a good word"]
    path.write_text("good\n")
    with pytest.raises(UserError, match="other files"):
        cleaned(tmp_path, lines, **asked)


def test_an_output_inside_of_the_input_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"clean\.output=.* lies in clean\.input"):
        cleaned(tmp_path, '{"text": "a"}', output="in/out")
    cleaned(tmp_path, '{"text": "a"}')
    with pytest.raises(UserError, match=r"lies in clean\.input"):
        cleaned(tmp_path, '{"text": "a"}', input=str(tmp_path / "*" / "*"))
