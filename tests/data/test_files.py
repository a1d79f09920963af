"""Text and JSONL files: what is read, how it is cut, what is compressed."""

import gzip
import json
import random

import numpy as np
import pytest
import zstandard

from gptjax.data import files, load
from gptjax.data.sources.jsonl import jsonl
from gptjax.data.sources.text import pieces
from gptjax.data.sources.text import text as text_files


def read(source):
    return list(source.read())


def test_file_directory_and_glob_name_the_same_files(tmp_path, write):
    folder = tmp_path / "corpus"
    texts = [text.encode() for text in write(folder, 3)]
    (folder / ".hidden").write_text("no")
    (folder / "deep").mkdir()
    (folder / "deep" / "more.txt").write_text("deeper\n")
    assert read(text_files(str(folder / "0001.txt"), 1 << 20)) == [texts[1]]
    assert read(text_files(str(folder), 1 << 20)) == [*texts, b"deeper\n"]
    assert read(text_files(str(folder / "*.txt"), 1 << 20)) == texts
    assert read(text_files(str(folder / "**" / "*.txt"), 1 << 20)) == [*texts, b"deeper\n"]


@pytest.mark.parametrize("members", [1, 3])
def test_compressed_files_are_read_whole(tmp_path, members):
    """Also where a file is several compressed members one after another."""
    rng = random.Random(0)
    parts = [rng.randbytes(900_000).hex().encode() for _ in range(members)]
    (tmp_path / "a.txt.gz").write_bytes(b"".join(map(gzip.compress, parts)))
    (tmp_path / "b.txt.zst").write_bytes(b"".join(zstandard.compress(part) for part in parts))
    for name in ("a.txt.gz", "b.txt.zst"):
        assert b"".join(files.chunks(tmp_path / name)) == b"".join(parts)


def test_zeros_after_gzip_are_padding(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"text") + b"\0" * 512)
    assert b"".join(files.chunks(path)) == b"text"


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_jsonl_lines(tmp_path, suffix):
    texts = ["one", "zwei\nDrei \u2028 x", "", "東京 " * 300_000, "last without line feed"]
    lines = [json.dumps({"id": i, "body": text}) for i, text in enumerate(texts)]
    content = "\r\n".join(lines[:2]).encode() + b"\n\n" + "\n".join(lines[2:]).encode()
    path = tmp_path / f"a.jsonl{suffix}"
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[suffix]
    path.write_bytes(pack(content))
    (tmp_path / "notes.txt").write_text("not JSON")
    for name in (path, tmp_path):
        assert [text.decode() for text in read(jsonl(str(name), "body"))] == texts


def test_pieces_join_to_the_text_and_end_well():
    rng = random.Random(1)
    for size in (1, 2, 10, 100):
        for _ in range(20):
            text = "".join(rng.choices(["a", "é", "東", "\n", "\n\n", " "], k=rng.randrange(400)))
            parts = list(pieces(text.encode(), size))
            assert b"".join(parts).decode() == text
            assert all(part.decode() for part in parts)
            assert all(len(part) >= size for part in parts[:-1])
    assert list(pieces(b"x" * 100, 10)) == [b"x" * 10] * 10


def test_few_files_are_cut_and_many_are_not(tmp_path, write):
    write(tmp_path / "few", 63, words=800)
    write(tmp_path / "many", 64, words=800)
    assert len(read(text_files(str(tmp_path / "few"), 0))) > 300
    assert len(read(text_files(str(tmp_path / "many"), 0))) == 64


def test_one_book_is_enough(tmp_path, config, write):
    """A single file of a few hundred kilobytes gives both sides."""
    (tmp_path / "book.txt").write_text("\n\n".join(write(tmp_path / "t", 400, words=200)))
    corpus = load(config(source="text", path=str(tmp_path / "book.txt")), seq_len=64)
    assert corpus.report["documents_train"] > 100
    assert corpus.train_bytes + corpus.heldout_bytes == (tmp_path / "book.txt").stat().st_size


def test_text_and_jsonl_of_the_same_documents_are_the_same_corpus(tmp_path, config, write):
    texts = write(tmp_path / "texts", 80)
    lines = (json.dumps({"text": text}) for text in texts)
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    settings = {"heldout_fraction": 0.2}
    ours = load(config(source="text", path=str(tmp_path / "texts"), **settings), seq_len=32)
    theirs = load(config(source="jsonl", path=str(tmp_path / "a.jsonl"), **settings), seq_len=32)
    assert ours.fingerprint == theirs.fingerprint
    assert np.array_equal(ours.train, theirs.train)
