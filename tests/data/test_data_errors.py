"""What users get wrong: one sentence with field, value and repair, and nothing half-written."""

import base64
import dataclasses
import errno
import gzip
import io
import json
import os
import re
import tarfile
from pathlib import Path

import pytest
import zstandard

from gptjax.data import load
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.text_check import utf8
from gptjax.errors import UserError


def line(text):
    return json.dumps({"text": text}).encode() + b"\n"


def packed(members):
    """A tar archive of these members."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


GOOD = b"".join(line(f"line {i}") for i in range(3))
FILES = {
    "ok.jsonl": GOOD,
    "empty.txt": b"",
    "empty.jsonl": b"",
    "blank.jsonl": b"\n\n  \n",
    "latin.txt": b"plain\ncaf\xe9\n",
    "utf16.txt": "text".encode("utf-16"),
    "unmarked.txt": "text and more text".encode("utf-16-le"),
    "unmarked.be": "text and more text".encode("utf-16-be"),
    "numbers.bin": bytes(range(3)) * 40,
    "some.zip": b"PK\x03\x04 and so on",
    "some.parquet": b"PAR1\x15\0 and so on",
    "cut.tar": packed({"a.txt": b"x" * 5000})[:3000],
    "cut.txt": "東京".encode()[:-1],
    "latin.jsonl": GOOD + b'{"text": "caf\xe9"}\n',
    "broken.jsonl": GOOD + b'{"text": "unfinished\n',
    "array.jsonl": GOOD + b"[1, 2]\n",
    "missing.jsonl": GOOD + b'{"texts": "a"}\n',
    "bare.jsonl": GOOD + b"{}\n",
    "number.jsonl": GOOD + b'{"text": 7}\n',
    "null.jsonl": GOOD + b'{"text": null}\n',
    "surrogate.jsonl": GOOD + b'{"text": "\\ud800"}\n',
    "deep.jsonl": GOOD + b'{"text": ' + b"[" * 100_000 + b"\n",
    "not.txt.gz": b"this is no gzip",
    "cut.txt.gz": gzip.compress(os.urandom(5000).hex().encode())[:-20],
    "not.txt.zst": b"this is no zstd",
    "cut.txt.zst": zstandard.compress(os.urandom(5000).hex().encode())[:-20],
    "short.txt": b"abc\n" * 3,
    "tokenizer.json": b'{"version": "1.0"',
    "odd.json": b'{"a": 1}',
    "tokenizer.model": b"no model at all",
    "empty.model": b"",
    "ranks": b"".join(b"%s %d\n" % (base64.b64encode(bytes([i])), i) for i in range(256)),
    "sub/.hidden": b"x",
}

TEXT, JSONL = {"source": "text"}, {"source": "jsonl"}
CASES = [
    (TEXT, r"data.path='' names no file.*give a file, a directory or a glob"),
    (JSONL, r"data.path='' names no file"),
    (TEXT | {"path": "latin.tx"}, r"data.path='.*latin.tx' does not exist; did you mean latin.txt"),
    (TEXT | {"path": "zzzzzzzzz"}, r"data.path='.*zzzzzzzzz' does not exist; name a file"),
    (TEXT | {"path": "no/where"}, r"data.path='.*no/where' does not exist; there is no directory"),
    (TEXT | {"path": "*.rst"}, r"data.path='.*\*.rst' matches no file; check the pattern"),
    (TEXT | {"path": "sub"}, r"data.path='.*sub' holds no file; name a directory with such files"),
    (JSONL | {"path": "sub"}, r"data.path='.*sub' holds no file that ends in .jsonl"),
    (TEXT | {"path": "loop.txt"}, r"'.*loop.txt' cannot be read: .*check the file"),
    (TEXT | {"path": "loop*"}, r"'.*loop.txt' cannot be read: .*check the file"),
    (TEXT | {"path": "empty.txt"}, r"data.path='.*empty.txt' holds no text"),
    (JSONL | {"path": "empty.jsonl"}, r"data.path='.*empty.jsonl' holds no text"),
    (JSONL | {"path": "blank.jsonl"}, r"data.path='.*blank.jsonl' holds no text"),
    (TEXT | {"path": "latin.txt"}, r"'.*latin.txt' is not UTF-8 at byte 9 \(0xe9\); convert it"),
    (TEXT | {"path": "utf16.txt"}, r"'.*utf16.txt' is text in UTF-16; convert it: iconv -f UTF-16"),
    (JSONL | {"path": "utf16.txt"}, r"'.*utf16.txt' is text in UTF-16; convert it"),
    (TEXT | {"path": "unmarked.txt"}, r"'.*unmarked.txt' looks like text in UTF-16 .*UTF-16LE -t"),
    (TEXT | {"path": "unmarked.be"}, r"'.*unmarked.be' looks like text in UTF-16 .*UTF-16BE -t"),
    (TEXT | {"path": "numbers.bin"}, r"'.*numbers.bin' is not text, as \d+% of its bytes are NUL"),
    (TEXT | {"path": "some.zip"}, r"'.*some.zip' is a zip archive, not text; unpack it"),
    (JSONL | {"path": "unmarked.txt"}, r"'.*unmarked.txt' looks like text in UTF-16"),
    (JSONL | {"path": "some.parquet"}, r"'.*some.parquet' is a Parquet file, not text"),
    (
        TEXT | {"path": "pipe"},
        r"pipe' is a named pipe, which can be read only once; give a plain",
    ),
    (JSONL | {"path": "pipe"}, r"'.*pipe' is a named pipe"),
    (TEXT | {"path": "with_pipe"}, r"'.*within' is a named pipe"),
    (TEXT | {"path": "cut.tar"}, r"'.*cut.tar' is not a whole tar file"),
    (TEXT | {"path": "cut.txt"}, r"'.*cut.txt' is not UTF-8 at byte 3"),
    (JSONL | {"path": "latin.jsonl"}, r"'.*latin.jsonl' is not UTF-8 at byte 70 \(0xe9\)"),
    (JSONL | {"path": "broken.jsonl"}, r"'.*broken.jsonl' line 4 is not JSON \(.*mend or drop"),
    (JSONL | {"path": "deep.jsonl"}, r"'.*deep.jsonl' line 4 is not JSON"),
    (JSONL | {"path": "array.jsonl"}, r"'.*array.jsonl' line 4 is a JSON list, not an object"),
    (
        JSONL | {"path": "missing.jsonl"},
        r"line 4 has no field data.text_field='text'; did you mean",
    ),
    (JSONL | {"path": "bare.jsonl"}, r"line 4 has no field data.text_field='text'; it is empty"),
    (JSONL | {"path": "ok.jsonl", "text_field": "body"}, r"line 1 has no field .*='body'; choose"),
    (JSONL | {"path": "number.jsonl"}, r"line 4 has a int in data.text_field='text'; name a field"),
    (JSONL | {"path": "null.jsonl"}, r"line 4 has a NoneType in data.text_field='text'"),
    (JSONL | {"path": "surrogate.jsonl"}, r"line 4 has half a surrogate pair"),
    (TEXT | {"path": "not.txt.gz"}, r"'.*not.txt.gz' is not a whole gzip file"),
    (TEXT | {"path": "cut.txt.gz"}, r"'.*cut.txt.gz' is not a whole gzip file \(it ends early"),
    (TEXT | {"path": "not.txt.zst"}, r"'.*not.txt.zst' is not a whole zstd file"),
    (TEXT | {"path": "cut.txt.zst"}, r"'.*cut.txt.zst' is not a whole zstd file \(it ends early"),
    (TEXT | {"path": "short.txt"}, r"data.heldout_fraction=.* leaves the .* part without any"),
    ({"tokenizer_path": "tokenizer.json"}, r"data.tokenizer_path=.* has no use with .*'bytes'"),
    (
        {"tokenizer": "bpe", "tokenizer_path": "no.json"},
        r"data.tokenizer_path=.*no.json' cannot be",
    ),
    (
        {"tokenizer": "bpe", "tokenizer_path": "a\0b"},
        r"data.tokenizer_path=.* cannot be read: .*null",
    ),
    (TEXT | {"path": "a\0b"}, r"data.path='.*' does not exist"),
    ({"tokenizer": "bpe", "tokenizer_path": "tokenizer.json"}, r"is not a tokenizer.json that"),
    ({"tokenizer": "bpe", "tokenizer_path": "odd.json"}, r"is not a tokenizer.json that"),
    ({"tokenizer": "bpe", "tokenizer_path": "tokenizer.model"}, r"is not a tokenizer.json that"),
    ({"tokenizer": "bpe", "tokenizer_path": "sub"}, r"tokenizer_path=.*sub' is a directory; give"),
    ({"tokenizer": "bpe", "tokenizer_path": "pipe"}, r"tokenizer_path=.*pipe' is a named pipe"),
    ({"tokenizer": "sentencepiece", "tokenizer_path": "ranks"}, r"set data.tokenizer=tiktoken"),
    ({"tokenizer": "bpe", "tokenizer_path": "ranks"}, r"looks like a file of ranks, as Llama 3's"),
    ({"tokenizer": "tiktoken", "tokenizer_path": "odd.json"}, r"set data.tokenizer=bpe; its lines"),
    ({"tokenizer": "bpe", "end_of_document": "<eos>"}, r"data.end_of_document='<eos>' is for a"),
    (
        {"tokenizer": "tiktoken", "tokenizer_path": "ranks", "end_of_document": "<eos>"},
        r"data.end_of_document='<eos>' is no id beside the ranks",
    ),
    ({"tokenizer": "sentencepiece", "tokenizer_path": "tokenizer.model"}, r"not a SentencePiece"),
    ({"tokenizer": "sentencepiece", "tokenizer_path": "empty.model"}, r"not a SentencePiece model"),
    ({"tokenizer": "bpe", "vocab_size": 256}, r"data.vocab_size=256 is too small .* give 257"),
]


@pytest.fixture
def here(tmp_path):
    """A folder of files that are all wrong in some way."""
    for name, content in FILES.items():
        path = tmp_path / "files" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (tmp_path / "files" / "loop.txt").symlink_to("loop.txt")
    (tmp_path / "files" / "with_pipe").mkdir()
    for name in ("pipe", "with_pipe/within"):
        os.mkfifo(tmp_path / "files" / name)
    return tmp_path / "files"


def refused(config, seq_len=8):
    with pytest.raises(UserError) as caught:
        load(config, seq_len=seq_len)
    message = str(caught.value)
    assert "\n" not in message
    assert "; " in message
    cache = Path(config.cache_dir)
    assert not cache.exists() or os.listdir(cache) == []
    return message


@pytest.mark.parametrize(("settings", "words"), CASES)
def test_refused(here, config, settings, words):
    for field in ("path", "tokenizer_path"):
        if field in settings:
            settings = settings | {field: str(here / settings[field])}
    assert re.search(words, refused(config(**settings)))


OTHER_KINDS = {
    b"PK\x05\x06" + b"\1" * 18: "a zip archive",
    b"!<arch>\ndebian-binary   1410000000  0     0     100644  4\n": "a Unix archive",
    b"begin 644 notes.txt\nM" + b"5" * 60 + b"\n": "a uuencoded file",
    b"\n%PDF-1.7\n1 0 obj\n<< /Type /Catalog >>\n": "a PDF",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%Title: notes\n": "a PostScript file",
    b"{\\rtf1\\ansi{\\fonttbl\\f0 Times;}\\f0 Hello\\par}": "an RTF document",
    b"GIF89a" + b"\1" * 8: "a picture",
    b"P2\n# made by hand\n2 2\n255\n0 255 255 0\n": "a picture",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n": "Git LFS pointer",
    b"<!DOCTYPE html>\n<html><body>Hello</body></html>": "an HTML page",
    b"\xef\xbb\xbf<?xml version='1.0'?>\n<!-- x -->\n<!doctype HTML PUBLIC>\n": "an HTML page",
    b"  <HTML lang=en>": "an HTML page",
    b"<!-- a remark -->\n" * 60 + b"<html>": "an HTML page",
    "東京タワー".encode("iso2022_jp"): "text in ISO 2022",
    "서울 타워".encode("iso2022_kr"): "text in ISO 2022",
}


@pytest.mark.parametrize(("content", "kind"), OTHER_KINDS.items())
def test_bytes_of_another_kind_are_named_though_they_are_utf8(content, kind):
    content.decode()
    with pytest.raises(UserError, match=f"'some.txt' (is|looks like) .*{kind}.*, or leave it out"):
        list(utf8([content + b" and more text\n" * 9], "some.txt"))


@pytest.mark.parametrize(
    "text",
    [
        b"The mark %PDF-1.7 begins a PDF.",
        b"begin 1984 with a book\n",
        b"# <html> in a comment",
        b"<p>a fragment</p>",
        b"{\\it emphasis} of TeX",
        b"P1 is a name, 2 2 are numbers",
        b"\x1b[31mred\x1b[0m",
        b"%! is odd",
        b"PARENTS AND CHILDREN",
        b"PAR1 is a light",
        b"FEA1 and FEA2 agree",
        b"the ftyp box of a film",
        b"P1\t12\t34\t56\n",
        b"P2 2 3 5 are primes\n",
        b"GIF89a is a format of pictures\n",
        b"From: a friend\n",
        b"<!-- a remark -->\n" * 60 + b"and a text",
    ],
)
def test_texts_that_begin_like_other_kinds_are_read(text):
    assert list(utf8([text], "some.txt")) == [text]


def test_pages_are_read_as_they_are_written_when_asked(tmp_path, config):
    (tmp_path / "pages").mkdir()
    for number in range(70):
        (tmp_path / "pages" / f"{number}.html").write_text(f"<html><p>page {number}</p></html>")
    settings = {"source": "text", "path": str(tmp_path / "pages"), "heldout_fraction": 0.3}
    with pytest.raises(UserError, match=r"is an HTML page, not text; .*data.text.markup=true"):
        load(config(**settings), seq_len=8)
    corpus = load(config(**settings, **{"text.markup": True}), seq_len=8)
    assert corpus.report["documents_read"] == 70
    assert b"</p></html>" in corpus.decode(corpus.train)


@pytest.mark.parametrize(("side", "fraction"), [("held-out", 0.05), ("train", 0.97)])
def test_smaller_than_one_window(texts, config, side, fraction):
    wanted = config(source="text", path=str(texts), heldout_fraction=fraction)
    with pytest.raises(UserError, match=rf"has \d+ {side} tokens.*model.seq_len=5000.*shorter"):
        load(wanted, seq_len=5000)


def test_exactly_one_window_is_enough(texts, config):
    wanted = config(source="text", path=str(texts), heldout_fraction=0.05)
    size = len(load(wanted, seq_len=8).heldout)
    assert len(load(wanted, seq_len=size - 1).heldout) == size
    with pytest.raises(UserError, match=rf"has {size} held-out tokens"):
        load(wanted, seq_len=size)


def test_window_of_nothing(config):
    assert refused(config(), seq_len=0).startswith("model.seq_len=0 is no window")


def test_sentencepiece_vocabulary_too_small(texts, config):
    wanted = config(source="text", path=str(texts), heldout_fraction=0.2, tokenizer="sentencepiece")
    message = refused(dataclasses.replace(wanted, vocab_size=100))
    needed = int(re.search(r"data.vocab_size=100 is too small .* give (\d+) or more", message)[1])
    refused(dataclasses.replace(wanted, vocab_size=needed - 1))
    assert load(dataclasses.replace(wanted, vocab_size=needed), seq_len=8).vocab_size == needed


def test_file_that_fails_while_it_is_read(texts, config, monkeypatch):
    """A disk error is blamed on the file, not on the cache."""
    real = Path.open

    def fails(path, *args, **kwargs):
        if path.name == "0042.txt":
            raise OSError(errno.EIO, "Input/output error")
        return real(path, *args, **kwargs)

    monkeypatch.setattr(Path, "open", fails)
    message = refused(config(source="text", path=str(texts)))
    assert "0042.txt' cannot be read: Input/output error" in message


def test_interpreter_without_sources(tmp_path):
    with pytest.raises(UserError, match=r"finds no source files .* data.source=text"):
        stdlib(str(tmp_path))
