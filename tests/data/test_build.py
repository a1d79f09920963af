"""Building in bounded memory: the same tokens by every way, and after a kill."""

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from gptjax.data import DataConfig, build, encoder, load, spool
from gptjax.errors import UserError
from gptjax.fields import make

FRACTION = 0.2


def write_lines(path, count, seed=0):
    """JSON lines, some of them twice or empty, one of them many times."""
    rng = np.random.default_rng(seed)
    texts = [f"{i} " + " ".join(map(str, rng.integers(0, 50, 40))) for i in range(count)]
    texts += texts[: count // 10] + ["", "the same text"] * 30
    path.write_text("\n".join(json.dumps({"text": text}) for text in texts))
    return path


@pytest.fixture
def small_memory(monkeypatch):
    """Everything is spilled, and partitions are split further."""
    monkeypatch.setattr(spool, "MEMORY_BYTES", 20_000)
    monkeypatch.setattr(spool, "PARTITION_BYTES", 1_000)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"deduplicate": False},
        {"tokenizer": "bpe", "vocab_size": 300, "tokenizer_bytes": 20_000},
        {"tokenizer": "sentencepiece", "vocab_size": 300, "tokenizer_bytes": 20_000},
    ],
    ids=["bytes", "copies kept", "bpe", "sentencepiece"],
)
@pytest.mark.parametrize("processes", [1, pytest.param(3, marks=pytest.mark.slow)])
def test_from_disk_as_from_memory(tmp_path, config, small_memory, monkeypatch, settings, processes):
    path = write_lines(tmp_path / "a.jsonl", 600)
    wanted = {"source": "jsonl", "path": str(path), "heldout_fraction": FRACTION, **settings}
    spilled = load(config(**wanted, processes=processes), seq_len=16)
    assert not list(spilled.folder.glob("spool*")) and not list(spilled.folder.glob("*.done"))
    monkeypatch.undo()
    held = load(config(**wanted | {"cache_dir": str(tmp_path / "other")}), seq_len=16)
    assert spilled.fingerprint == held.fingerprint
    assert spilled.report == held.report
    assert np.array_equal(spilled.train, held.train)
    assert np.array_equal(spilled.heldout, held.heldout)
    assert (spilled.train_bytes, spilled.heldout_bytes) == (held.train_bytes, held.heldout_bytes)


def test_from_disk_by_several_processes(tmp_path, config, small_memory, monkeypatch):
    settings = {"tokenizer": "bpe", "vocab_size": 300, "tokenizer_bytes": 20_000}
    test_from_disk_as_from_memory(tmp_path, config, small_memory, monkeypatch, settings, 3)


@pytest.mark.parametrize(
    ("what", "calls"),
    [("Spool._spill", 2), ("spool.write_json", 2), ("TokenWriter.write", 60), ("write_json", 60)],
)
def test_an_interrupted_build_goes_on(tmp_path, config, small_memory, monkeypatch, what, calls):
    """In this process, of one; kills of processes are slow.

    What was written before the note that says so is cut back.
    """
    path = write_lines(tmp_path / "a.jsonl", 400)
    wanted = {"source": "jsonl", "path": str(path), "heldout_fraction": FRACTION, "processes": 1}
    whole = load(config(**wanted, cache_dir=str(tmp_path / "whole")), seq_len=16)
    *place, name = what.split(".")
    owners = {"Spool": spool.Spool, "spool": spool, "TokenWriter": build.TokenWriter}
    owner, left = owners[place[0]] if place else build, itertools.count(calls, -1)
    function = getattr(owner, name)

    def interrupted(*args, **kwargs):
        if next(left) == 0:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(build, "SAVE_SECONDS", 0.0)
        patch.setattr(owner, name, interrupted)
        load(config(**wanted), seq_len=16)
    (partial,) = (tmp_path / "cache").iterdir()
    assert partial.name.endswith(".partial.tmp") and not (partial / "meta.json").exists()
    again = load(config(**wanted), seq_len=16)
    assert (again.fingerprint, again.report) == (whole.fingerprint, whole.report)
    assert np.array_equal(again.train, whole.train)
    assert np.array_equal(again.heldout, whole.heldout)
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_side_without_documents_is_refused_from_disk_too(tmp_path, config, small_memory):
    path = write_lines(tmp_path / "a.jsonl", 300)
    with pytest.raises(UserError, match="leaves the held-out part without any of the"):
        load(config(source="jsonl", path=str(path), heldout_fraction=1e-9), seq_len=16)
    assert os.listdir(tmp_path / "cache") == []


def test_an_error_in_a_process_is_the_users(tmp_path, config, small_memory, monkeypatch):
    path = write_lines(tmp_path / "a.jsonl", 300)
    monkeypatch.setattr(build, "write_json", lambda *_: (_ for _ in ()).throw(UserError("no; ok")))
    with pytest.raises(UserError, match="no; ok"):
        load(config(source="jsonl", path=str(path), processes=2), seq_len=16)
    assert os.listdir(tmp_path / "cache") == []


BUILD = """
import os, signal, sys, time
from gptjax.data import build, encoder, load, spool
from gptjax.fields import make
from gptjax.data import DataConfig
spool.MEMORY_BYTES, spool.PARTITION_BYTES, build.SAVE_SECONDS = 20_000, 1_000, 0.05
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it for what they leave
moment, left = sys.argv[3], [int(sys.argv[4])]

def dies(function):
    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            if moment == "interrupt":
                os.killpg(0, signal.SIGINT)
            else:
                os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return wrapped

if moment == "spill":
    spool.Spool._spill = dies(spool.Spool._spill)
if moment in ("append", "interrupt"):
    build.TokenWriter.append = dies(build.TokenWriter.append)
if moment == "flush":
    build.TokenWriter.flush = dies(build.TokenWriter.flush)
config = {"source": "jsonl", "path": sys.argv[1], "cache_dir": sys.argv[2],
          "heldout_fraction": .2, "tokenizer": "bpe", "vocab_size": 300, "processes": 2}
corpus = load(make(DataConfig, config, "data"), seq_len=16)
print(corpus.fingerprint, corpus.report)
"""


def run(path, cache, *arguments):
    command = [sys.executable, "-c", BUILD, str(path), str(cache), *arguments]
    return subprocess.run(command, capture_output=True, text=True)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file of lines, and what a build of it says that nobody kills."""
    folder = tmp_path_factory.mktemp("whole")
    path = write_lines(folder / "a.jsonl", 800)
    return path, built(path, folder / "cache")


def built(path, cache):
    """What `BUILD` says that nobody kills, in this process."""
    config = {
        "source": "jsonl",
        "path": str(path),
        "cache_dir": str(cache),
        "heldout_fraction": 0.2,
        "tokenizer": "bpe",
        "vocab_size": 300,
        "processes": 2,
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spool, "MEMORY_BYTES", 20_000)
        patch.setattr(spool, "PARTITION_BYTES", 1_000)
        corpus = load(make(DataConfig, config, "data"), seq_len=16)
    return f"{corpus.fingerprint} {corpus.report}\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "count"),
    [("spill", 4), ("append", 100), ("spill", 0), ("append", 0), ("flush", 0)],
)
def test_a_killed_build_goes_on_with_the_same_bits(tmp_path, whole, moment, count):
    path, wanted = whole
    killed = run(path, tmp_path, moment, str(count))
    assert killed.returncode == -signal.SIGKILL
    (left,) = tmp_path.iterdir()
    assert moment == "spill" or (left / "train.bin").exists()
    again = run(path, tmp_path, "never", "0")
    assert again.stdout == wanted, again.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == [left.name[1 : -len(".partial.tmp")]]


def test_progress_is_said(capsys, monkeypatch):
    monkeypatch.setattr(build, "REPORT_SECONDS", 0.0)
    progress = build.Progress("data.path='a'")
    progress.read(2_500_000_000)
    progress.restart(4_000_000_000)
    progress.tokenized(1_000_000_000)
    said = capsys.readouterr().err.splitlines()
    assert said[0] == "gptjax: data.path='a': 2.50 GB read"
    assert said[1].startswith("gptjax: data.path='a': 25% of 4.00 GB tokenized, about ")


LARGE = """
import resource, sys
from gptjax.data import load, DataConfig
config = DataConfig(source="text", path=sys.argv[1], cache_dir=sys.argv[2], processes=2)
corpus = load(config, seq_len=128)
own, theirs = (resource.getrusage(who).ru_maxrss / 1024
               for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
print(corpus.train_bytes + corpus.heldout_bytes, own + 2 * theirs)
"""


@pytest.mark.slow
def test_four_gigabytes_in_700_megabytes(tmp_path):
    """The peak of the parent and of both processes together."""
    rng = np.random.default_rng(0)
    total = 0
    for number in range(40):
        block = rng.integers(97, 123, 100 << 20, dtype=np.uint8)
        block[::61] = 10
        block[1::9973] = block[::9973] = 10
        (tmp_path / f"{number}.txt").write_bytes(block.tobytes())
        total += len(block)
    command = [sys.executable, "-c", LARGE, str(tmp_path), str(tmp_path / "cache")]
    start = time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    size, peak = map(float, done.stdout.split())
    print(f"{total} bytes in {time.monotonic() - start:.0f} s, {peak:.0f} MB")
    assert size > 0.99 * total
    assert peak < 700


def test_a_process_of_a_build_leaves_interrupts_to_who_started_it(monkeypatch):
    """From before it reads its first line: a terminal interrupts the whole group."""
    seen = []
    monkeypatch.setattr(signal, "signal", lambda *given: seen.append(given))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(json.JSONDecodeError):
        encoder.main()
    assert seen == [(signal.SIGINT, signal.SIG_IGN)]


@pytest.mark.slow
def test_ctrl_c_leaves_what_the_next_build_goes_on_with(tmp_path, whole):
    """Interrupted as a terminal does it, the whole group: no traceback of the processes.

    pytest -m slow tests/data/test_build.py
    """
    path, wanted = whole
    command = [sys.executable, "-c", BUILD, str(path), str(tmp_path), "interrupt", "30"]
    process = subprocess.run(command, capture_output=True, text=True, start_new_session=True)
    assert process.returncode != 0
    assert process.stderr.count("KeyboardInterrupt") == 1, process.stderr
    (left,) = tmp_path.iterdir()
    assert (left / "spool" / "progress.json").exists()
    assert built(path, tmp_path) == wanted
