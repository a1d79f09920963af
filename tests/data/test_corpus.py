"""The standard library as a corpus; the split, the joins and the fingerprint of any corpus."""

import base64
import dataclasses
import itertools
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gptjax.data import load, split, token_files
from gptjax.data.encoder import Counts, without_copies
from gptjax.data.sources import SOURCES
from gptjax.data.sources.stdlib import stdlib
from gptjax.data.spool import Spool
from gptjax.data.tokenizers import bpe, sentencepiece
from gptjax.errors import UserError


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    from gptjax.data import DataConfig

    return load(DataConfig(cache_dir=str(tmp_path_factory.mktemp("cache"))), seq_len=128)


def split_at_ends(tokens, end):
    at = np.flatnonzero(tokens == end)
    assert at[0] == 0
    assert at[-1] == len(tokens) - 1
    return [tokens[a + 1 : b].astype(np.uint8).tobytes() for a, b in itertools.pairwise(at)]


def test_standard_library(library):
    assert library.vocab_size == 257
    assert library.end_of_document == 256
    assert library.train.dtype == np.uint16
    assert isinstance(library.train, np.memmap)
    assert library.train_bytes > 5_000_000
    assert 100_000 < library.heldout_bytes < 600_000
    assert library.bytes_per_token == 1.0
    train = split_at_ends(library.train, 256)
    heldout = split_at_ends(library.heldout, 256)
    assert sum(map(len, train)) == library.train_bytes
    assert sum(map(len, heldout)) == library.heldout_bytes
    assert not set(train) & set(heldout)
    assert len(set(train)) == len(train) == library.report["documents_train"]
    assert Path(dataclasses.__file__).read_bytes() in train + heldout


def test_standard_library_has_no_tests_and_nothing_of_others(tmp_path):
    for name in ("a.py", "test/b.py", "x/tests/c.py", "site-packages/d.py", "x/e.py", "f.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"# {name}\n")
    (tmp_path / "latin.py").write_bytes(b"# caf\xe9\n")
    assert list(stdlib(str(tmp_path)).read()) == [b"# a.py\n", b"# x/e.py\n"]


def test_tokens_by_hand(tmp_path):
    """Ids in the smallest type that holds them."""
    for vocab_size, dtype in ((10, np.uint8), (257, np.uint16), (100_000, np.uint32)):
        with token_files.TokenWriter(tmp_path / "a.bin", vocab_size) as tokens:
            for ids in ([vocab_size - 1], [1, 2, vocab_size - 1], [3, vocab_size - 1]):
                tokens.write(np.array(ids))
            assert tokens.count == 6
        end = vocab_size - 1
        found = token_files.open_tokens(tmp_path / "a.bin", vocab_size)
        assert found.tolist() == [end, 1, 2, end, 3, end]
        assert found.dtype == dtype


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"mask_end_of_document": False},
        {"tokenizer": "bpe", "vocab_size": 300},
        {"tokenizer": "bpe", "vocab_size": 300, "bpe.level": "characters"},
        {"tokenizer": "sentencepiece", "vocab_size": 320},
        {"tokenizer": "sentencepiece", "vocab_size": 320, "sentencepiece.model": "unigram"},
        {"tokenizer": "tiktoken", "tokenizer_path": "ranks"},
        {"tokenizer": "bpe", "tokenizer_path": "tokenizer.json"},
        {"tokenizer": "sentencepiece", "tokenizer_path": "tokenizer.model"},
    ],
    ids=lambda settings: "-".join(map(str, settings.values())) or "bytes",
)
def test_bits_per_byte_counts_every_heldout_byte(texts, config, tmp_path, monkeypatch, settings):
    """nats of the scored tokens / ln 2 / bytes = bits per byte, whatever the tokenizer."""
    monkeypatch.chdir(tmp_path)
    content = [path.read_bytes() for path in sorted(texts.iterdir())]
    if settings.get("tokenizer_path") == "ranks":
        tokens = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" s"]
        lines = [b"%s %d" % (base64.b64encode(token), i) for i, token in enumerate(tokens)]
        Path("ranks").write_bytes(b"\n".join(lines))
    if settings.get("tokenizer_path") == "tokenizer.json":
        Path("tokenizer.json").write_bytes(bpe.train(content, 310))
    if settings.get("tokenizer_path") == "tokenizer.model":
        Path("tokenizer.model").write_bytes(sentencepiece.train(content, 330, "bpe"))
    wanted = config(source="text", path=str(texts), heldout_fraction=0.2, **settings)
    corpus = load(wanted, seq_len=16)
    scored = int(corpus.scored(corpus.heldout[1:]).sum())
    assert corpus.bytes_per_token * scored == pytest.approx(corpus.heldout_bytes)
    assert corpus.heldout_bytes == len(corpus.decode(corpus.heldout)) > 0


def test_side_depends_on_content_alone(tmp_path, config, write):
    """More documents, other names, another order: what was held out still is."""
    write(tmp_path / "a", 70)
    texts = write(tmp_path / "b", 90)
    for number, text in enumerate(texts[:70]):
        (tmp_path / "b" / f"{number:04}.txt").unlink()
        (tmp_path / "b" / f"z{999 - number}.txt").write_text(text)
    sides = {}
    for name in "ab":
        corpus = load(
            config(source="text", path=str(tmp_path / name), heldout_fraction=0.3), seq_len=16
        )
        sides[name] = [set(split_at_ends(side, 256)) for side in (corpus.train, corpus.heldout)]
    assert len(sides["a"][1]) > 5
    assert sides["a"][0] < sides["b"][0]
    assert sides["a"][1] < sides["b"][1]


def test_larger_fraction_keeps_what_was_held_out():
    names = [split.digest(str(number).encode()) for number in range(4000)]
    small = {name for name in names if split.is_heldout(name, 0.1)}
    large = {name for name in names if split.is_heldout(name, 0.3)}
    assert small < large
    assert len(small) == pytest.approx(400, abs=80)
    assert len(large) == pytest.approx(1200, abs=130)


def sides(folder, documents, fraction, *, deduplicate=True):
    """The documents of both sides in their order, and how many were copies."""
    spool = Spool(folder, fraction)
    spool.fill(documents, lambda done: None)
    counts = Counts()
    found = [
        list(without_copies(spool.records(side), counts, deduplicate=deduplicate))
        for side in (0, 1)
    ]
    return *found, counts, spool


def test_duplicates_and_empty_documents_are_counted(tmp_path):
    given = [b"a", b"", b"b", b"a", b"c", b"a"] + [b"%d" % i for i in range(50)]
    train, heldout, counts, spool = sides(tmp_path, given, 0.5)
    assert sorted(train + heldout) == sorted(set(given) - {b""})
    assert (spool.read, spool.empty, counts.duplicates) == (56, 1, 2)
    train, heldout, counts, _ = sides(tmp_path, given, 0.5, deduplicate=False)
    (side,) = (side for side in (train, heldout) if b"a" in side)  # copies stay together
    assert side.count(b"a") == 3
    assert counts.documents == 55


def test_order_of_documents_is_that_of_their_hashes(tmp_path, texts):
    given = [path.read_bytes() for path in sorted(texts.iterdir())]
    one, two = (sides(tmp_path, documents, 0.2)[:2] for documents in (given, given[::-1]))
    assert one == two
    assert one[0] != sorted(one[0], key=given.index)


def test_fingerprint_follows_what_is_trained_on(texts, config):
    base = {"source": "text", "path": str(texts), "heldout_fraction": 0.2}
    prints = {
        name: load(config(**base, **settings), seq_len=16).fingerprint
        for name, settings in {
            "base": {},
            "again": {"tokenizer_bytes": 5},  # unused by bytes
            "scored ends": {"mask_end_of_document": False},
            "bpe": {"tokenizer": "bpe", "vocab_size": 300},
            "larger bpe": {"tokenizer": "bpe", "vocab_size": 310},
        }.items()
    }
    assert prints["base"] == prints["again"]
    assert len(set(prints.values())) == 4
    (texts / "0000.txt").write_text("another text\n")
    assert load(config(**base), seq_len=16).fingerprint != prints["base"]


def test_second_load_is_quick_and_the_same(texts, config):
    wanted = config(source="text", path=str(texts), heldout_fraction=0.2)
    first = load(wanted, seq_len=16)
    start = time.perf_counter()
    again = load(wanted, seq_len=64)
    assert time.perf_counter() - start < 0.5
    assert again.fingerprint == first.fingerprint
    assert again.folder == first.folder
    assert np.array_equal(again.train, first.train)


def test_import_is_light():
    code = (
        "import sys, gptjax.data;"
        "heavy = {'tensorflow_datasets', 'grain', 'tokenizers', 'sentencepiece', 'jax'};"
        "sys.exit(', '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_hyphen_and_underscore_are_one_source(config):
    assert SOURCES["zipf_facts"] is SOURCES["zipf-facts"]
    with pytest.raises(UserError, match="did you mean python-stdlib"):
        load(config(source="python-stdlb"), seq_len=8)
