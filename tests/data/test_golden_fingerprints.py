"""Fingerprints of small corpora, so that a change of tokens is noticed.

A failure here means that the same settings and text now give other tokens: results made before
cannot be compared with new ones. Update a value only for a change that the changelog names.
"""

import base64
import json

import pytest

from gptjax.data import load

RANKS = [bytes([byte]) for byte in range(256)] + [b"th", b"the", b" s", b" of", b"\xe6\x9d"]
FILES = {"source": "text", "path": "texts", "heldout_fraction": 0.2}
ZIPF = {
    "source": "zipf-facts",
    "zipf_facts.base": 8,
    "zipf_facts.entities": 64,
    "zipf_facts.relations": 1,
    "zipf_facts.attributes": 5,
    "zipf_facts.tokens": 5000,
    "zipf_facts.heldout_tokens": 1000,
    "zipf_facts.seed": 3,
    "zipf_facts.exponent": 1.2,
    "zipf_facts.digits": 3,
}
GOLDEN = {
    "4cfb7fa94c5bba19f8f971de18dbef38": FILES,
    "3d0c3dbbd7edad096b0bdb403770730e": FILES
    | {"deduplicate": False, "mask_end_of_document": False, "normalize": True},
    "b36163196c7bdee0523abac1772b864c": FILES | {"tokenizer": "bpe", "vocab_size": 300},
    "eb98f54980a6918f5807a29499e148e8": FILES
    | {
        "tokenizer": "bpe",
        "vocab_size": 300,
        "bpe.level": "characters",
        "tokenizer_bytes": 4000,
    },
    "b34728302f2d1e02663137bea9b70a82": FILES | {"tokenizer": "sentencepiece", "vocab_size": 320},
    "c9dedbd42cbcc2f7666bb7a77a2cbe6f": FILES
    | {"tokenizer": "sentencepiece", "vocab_size": 320, "sentencepiece.model": "unigram"},
    "ccabc6190ce5dde85ad67581a5b8d0dd": FILES
    | {"tokenizer": "tiktoken", "tokenizer_path": "ranks"},
    "54785451642d38e5d207bc932bcdbfa6": FILES | {"path": "book.txt"},
    "2b2d9b5103d261b5a6984add97a5cfc7": FILES | {"path": "book.txt", "text.document_bytes": 1000},
    "34e811a14c481f6bd51712876c795ecf": ZIPF,
    "1559c7d42c138a4808c7d3333a0bf439": {
        "source": "arithmetic",
        "arithmetic.digits": 2,
        "arithmetic.problems": 300,
        "arithmetic.seed": 1,
        "heldout_fraction": 0.2,
    },
}


@pytest.fixture
def here(tmp_path, write, monkeypatch):
    """Small files, a book, JSON lines and ranks in the working directory."""
    monkeypatch.chdir(tmp_path)
    texts = write(tmp_path / "texts", 80)
    (tmp_path / "book.txt").write_text("\n\n".join(texts))
    lines = (json.dumps({"id": i, "body": text}) for i, text in enumerate(texts))
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    ranks = [b"%s %d" % (base64.b64encode(token), i) for i, token in enumerate(RANKS)]
    (tmp_path / "ranks").write_bytes(b"\n".join(ranks))


@pytest.mark.parametrize("fingerprint", GOLDEN)
def test_tokens_are_what_they_were(here, config, fingerprint):
    assert load(config(**GOLDEN[fingerprint]), seq_len=20).fingerprint == fingerprint


def test_json_lines_of_the_same_texts(here, config):
    wanted = config(source="jsonl", path="lines.jsonl", text_field="body", heldout_fraction=0.2)
    assert load(wanted, seq_len=20).fingerprint == "4cfb7fa94c5bba19f8f971de18dbef38"
