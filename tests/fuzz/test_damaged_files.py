"""Damaged model folders, tables, texts and records: a sentence or a result, never a traceback.

Each seed damages one file of a good folder in one way; some always, thousands with `-m slow`:

    pytest -m slow -rP tests/fuzz/test_damaged_files.py
"""

import collections
import functools
import json
import os
import random
import shutil
import sys
from pathlib import Path

import pytest
from flat_settings import changed

from gptjax import convert, data
from gptjax.errors import UserError
from gptjax.scaling.tables.runs import prepare
from gptjax.scaling.tables.table import as_table

sys.path.insert(0, str(Path(__file__).parents[1] / "convert"))
import tiny
from test_settings import is_a_sentence, limit

VALUES = (None, True, -1, 0, 1, 2, 10**30, 0.5, -1.0, "", "a", "é\n", [], [1], ["a"], {}, {"a": 1})
VALUES += (float("nan"), float("inf"), [[[]]], 1 << 31, "default", {"rope_type": "yarn"})
LINES = (b"", b"\0\0", b"\xff\xfe\xfa", b"{}", b"[]", b"null", b'{"text": 1}', b'"', b",,,", b"a;b")


def places_of(tree, path=()):
    """Paths of all values inside of a JSON document."""
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree)
    for key, value in inside if isinstance(tree, dict | list) else ():
        yield (*path, key)
        if isinstance(value, dict | list):
            yield from places_of(value, (*path, key))


def change_value(file, rng):
    tree = json.loads(file.read_text())
    *above, last = rng.choice(list(places_of(tree)))
    at = functools.reduce(lambda inner, key: inner[key], above, tree)
    if rng.random() < 0.2:
        del at[last]
    else:
        at[last] = rng.choice(VALUES)
    file.write_text(json.dumps(tree))


def replace_all(file, rng):
    file.write_text(json.dumps(rng.choice(VALUES)))


def cut_off(file, rng):
    os.truncate(file, rng.randrange(file.stat().st_size))


def flip_bytes(file, rng):
    """A few bytes, half of the time near the beginning, where headers are."""
    found = bytearray(file.read_bytes())
    end = min(400, len(found)) if rng.random() < 0.5 else len(found)
    for _ in range(rng.choice((1, 1, 8))):
        found[rng.randrange(end)] = rng.randrange(256)
    file.write_bytes(bytes(found))


def insert_line(file, rng):
    lines = file.read_bytes().split(b"\n")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(LINES))
    file.write_bytes(b"\n".join(lines))


def no_file(file, rng):
    """A folder, nothing, or a link to itself in the file's place."""
    file.unlink()
    rng.choice((file.mkdir, lambda: None, lambda: file.symlink_to(file.name)))()


ANY = (cut_off, flip_bytes, insert_line, no_file)


def damage(folder, rng):
    """What was done to which file."""
    file = rng.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    ways = (*ANY, change_value, change_value, replace_all) if file.suffix == ".json" else ANY
    way = rng.choice(ways)
    way(file, rng)
    return f"{way.__name__} {file.name}"


def write_theirs(folder):
    config = changed(tiny.LLAMA, rope_scaling="llama3", rope_factor=4.0, rope_trained_len=5)
    config = changed(config, rope_slow=0.5, rope_fast=2.0)
    shard = 2_000
    convert.to_huggingface(config, tiny.parameters(config), folder, max_shard_bytes=shard)


def write_ours(folder):
    convert.save_model(folder, tiny.LLAMA, tiny.parameters(tiny.LLAMA))


def write_table(folder):
    rows = [
        f"{n}e6,{d}e8,{6 * n * d}e14,{1 + 5 / n + 5 / d},finished"
        for n in (1, 2, 4)
        for d in (1, 3, 9)
    ]
    (folder / "runs.csv").write_text("params,tokens,flops,loss,state\n" + "\n".join(rows) + "\n")


def write_texts(folder):
    for number in range(5):
        document = {"text": f"text {number} " * 20, "id": number}
        with (folder / "a.jsonl").open("a") as file:
            file.write(json.dumps(document) + "\n")


def read_texts(folder):
    config = data.DataConfig(source="jsonl", path=str(folder / "a.jsonl"), heldout_fraction=0.4)
    data.load(config, seq_len=4)


KINDS = {
    "theirs": (write_theirs, convert.load),
    "ours": (write_ours, convert.load),
    "table": (write_table, lambda folder: prepare(as_table(folder / "runs.csv"))),
    "texts": (write_texts, read_texts),
}


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A folder of each kind, which can be read."""
    folders = {}
    for kind, (write, read) in KINDS.items():
        folders[kind] = tmp_path_factory.mktemp(kind)
        write(folders[kind])
        read(folders[kind])
    return folders


def check(kind, seeds, good, place):
    """How many were read and how many refused, printed; anything else names its seed."""
    ends = collections.Counter()
    for seed in seeds:
        folder = place / str(seed)
        shutil.copytree(good[kind], folder)
        done = damage(folder, random.Random(seed))
        with limit(20, f"{kind} {seed}, {done}"):
            try:
                KINDS[kind][1](folder)
                ends["read"] += 1
            except UserError as error:
                sentence = " ".join(str(error).split())
                assert is_a_sentence(sentence), (kind, seed, done, sentence)
                ends["refused"] += 1
            except Exception as error:
                raise AssertionError(f"{kind} {seed}, {done}, ends in {error!r}") from error
        shutil.rmtree(folder)
    print(f"{kind} {seeds.start}-{seeds.stop - 1}: {dict(ends)}")


@pytest.mark.parametrize("kind", KINDS)
def test_some_damaged_files(kind, good, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    check(kind, range(25), good, tmp_path)


@pytest.mark.parametrize(("kind", "seed"), [("theirs", 104), ("theirs", 259), ("ours", 107)])
def test_files_that_ended_in_a_traceback_once(kind, seed, good, tmp_path):
    """A config.json that is a number, and a number in the place of a group of settings."""
    check(kind, range(seed, seed + 1), good, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
@pytest.mark.parametrize("kind", KINDS)
def test_two_thousand_damaged_files(kind, part, good, tmp_path, monkeypatch):
    monkeypatch.setenv("GPTJAX_CACHE", str(tmp_path / "cache"))
    check(kind, range(25 + 100 * part, 125 + 100 * part), good, tmp_path)
