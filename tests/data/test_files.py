"""Text and JSONL files: what is read, how it is cut, what is compressed."""

import bz2
import gzip
import io
import json
import lzma
import random
import tarfile

import numpy as np
import pytest
import zstandard

from gptjax.data import compression, load
from gptjax.data.compression import chunks
from gptjax.data.sources.jsonl import jsonl
from gptjax.data.sources.text import pieces
from gptjax.data.sources.text import text as text_files
from gptjax.errors import UserError


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
        assert b"".join(chunks(tmp_path / name)) == b"".join(parts)


def test_zeros_after_gzip_are_padding(tmp_path):
    path = tmp_path / "a.gz"
    path.write_bytes(gzip.compress(b"text") + b"\0" * 512)
    assert b"".join(chunks(path)) == b"text"


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
            parts = list(pieces([text.encode()], size))
            assert b"".join(parts).decode() == text
            assert all(part.decode() for part in parts)
            assert all(len(part) >= size for part in parts[:-1])
    assert list(pieces([b"x" * 100], 10)) == [b"x" * 10] * 10


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


def archive_of(texts, mode="w"):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode=mode) as archive:
        for name, text in texts.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            archive.addfile(member, io.BytesIO(text))
    return file.getvalue()


def test_folders_behind_links_are_read_and_loops_end(tmp_path, write):
    write(tmp_path / "store", 5)
    write(tmp_path / "corpus" / "own", 3, seed=1)
    (tmp_path / "corpus" / "linked").symlink_to("../store")
    (tmp_path / "corpus" / "again").symlink_to("linked")
    (tmp_path / "corpus" / "own" / "loop").symlink_to("..")
    assert len(read(text_files(str(tmp_path / "corpus"), 1 << 20))) == 8


@pytest.mark.parametrize(
    ("name", "pack"),
    [
        ("a.GZ", gzip.compress),
        ("a.gzip", gzip.compress),
        ("a.zstd", zstandard.compress),
        ("a.bz2", bz2.compress),
        ("a.xz", lzma.compress),
        ("a.lzma", lambda text: lzma.compress(text, format=lzma.FORMAT_ALONE)),
        ("b.txt", lambda text: lzma.compress(text, format=lzma.FORMAT_ALONE)),
        ("c.txt", lambda text: b"P*M\x18\4\0\0\0abcd" + zstandard.compress(text)),
        ("no_suffix", gzip.compress),
        ("a.txt", zstandard.compress),
    ],
)
def test_compression_is_known_by_name_or_content(tmp_path, name, pack):
    (tmp_path / name).write_bytes(pack(b"text of some length"))
    assert read(text_files(str(tmp_path / name), 1 << 20)) == [b"text of some length"]


def test_zstd_with_a_dictionary_is_named(tmp_path):
    samples = [b"sample %d of the law of the loss " % i * 20 for i in range(200)]
    words = zstandard.train_dictionary(2000, samples)
    packed = zstandard.ZstdCompressor(dict_data=words).compress(samples[0])
    (tmp_path / "a.zst").write_bytes(packed)
    with pytest.raises(UserError, match="compressed with a dictionary, which is not in it"):
        read(text_files(str(tmp_path / "a.zst"), 1 << 20))


def test_zstd_with_a_long_window(tmp_path):
    """As `zstd --long=31` writes: a window that the library refuses unless it is asked."""
    parameters = zstandard.ZstdCompressionParameters(window_log=28, compression_level=1)
    packer = zstandard.ZstdCompressor(compression_params=parameters)
    stream = packer.compressobj()
    (tmp_path / "a.zst").write_bytes(stream.compress(b"text " * 100) + stream.flush())
    assert read(text_files(str(tmp_path / "a.zst"), 1 << 20)) == [b"text " * 100]


def test_an_archive_whose_first_bytes_come_late(tmp_path):
    """bzip2 gives nothing before a whole block of 900 KB is there."""
    noise = random.Random(0).randbytes(400_000).hex().encode()
    (tmp_path / "a.tar.bz2").write_bytes(bz2.compress(archive_of({"b.txt": noise, "c.txt": b"c"})))
    assert read(text_files(str(tmp_path / "a.tar.bz2"), 0)) == [noise, b"c"]


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.tgz", "a.TGZ", "a.tar.zst", "anything"])
def test_members_of_an_archive_are_documents(tmp_path, name):
    texts = {f"corpus/{i}.txt": b"document %d\n" % i for i in range(7)}
    content = archive_of(texts | {"corpus/.hidden": b"no"})
    pack = {".tar": bytes, ".zst": zstandard.compress, "": bytes}.get(
        (tmp_path / name).suffix, gzip.compress
    )
    (tmp_path / name).write_bytes(pack(content))
    assert read(text_files(str(tmp_path / name), 0)) == list(texts.values())


def test_json_lines_in_an_archive(tmp_path):
    lines = {"a.jsonl": b'{"text": "one"}\n{"text": "two"}\n', "README": b"not JSON"}
    (tmp_path / "a.tar.gz").write_bytes(gzip.compress(archive_of(lines)))
    assert read(jsonl(str(tmp_path / "a.tar.gz"), "text")) == [b"one", b"two"]


@pytest.mark.parametrize("end", ["\r\n", "\n", "\r"])
def test_a_book_is_cut_at_its_blank_lines(tmp_path, end):
    lines = [f"line {i} of the book" + end * (2 if i % 5 == 4 else 1) for i in range(3000)]
    (tmp_path / "book.txt").write_bytes("".join(lines).encode())
    found = read(text_files(str(tmp_path / "book.txt"), 0))
    assert len(found) > 50
    assert all(piece.endswith(2 * end.encode()) for piece in found)


def test_pieces_are_the_same_however_the_text_arrives():
    rng = random.Random(2)
    text = "".join(rng.choices(["a", "é", "東", "\n", "\n\n", "\r\n\r\n"], k=2000)).encode()
    for size in (1, 3, 50):
        whole = list(pieces([text], size))
        for step in (1, 7, 300):
            parts = [text[i : i + step] for i in range(0, len(text), step)]
            assert list(pieces(parts, size)) == whole


def test_a_character_may_stand_across_two_chunks(tmp_path):
    content = b"x" * (compression.COMPRESSED_CHUNK - 1) + "東京".encode()
    (tmp_path / "a.txt").write_bytes(content)
    assert read(text_files(str(tmp_path / "a.txt"), 1 << 30)) == [content]
    (tmp_path / "a.txt").write_bytes(content[:-1])
    with pytest.raises(UserError, match=f"not UTF-8 at byte {len(content) - 3}"):
        read(text_files(str(tmp_path / "a.txt"), 1 << 30))
