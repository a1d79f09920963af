"""The benchmark of a device: every part at toy size on a CPU, and parts that fail."""

import importlib.util
import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accelerator.py"


@pytest.fixture(scope="module")
def accelerator():
    spec = importlib.util.spec_from_file_location("benchmark_of_a_device", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_every_kernel_has_its_rows(accelerator):
    rows = {row["kernel"]: row for row in accelerator.attention("toy")}
    assert set(rows) == {"dense", "blockwise", "cudnn", "pallas"}
    for name in ("dense", "blockwise", "pallas"):
        row = rows[name]
        assert row["flops_per_s"] == pytest.approx(7 * 2 * 128**3 / (row["ms"] / 1e3))
    assert rows["cudnn"]["failed"]  # this is a CPU


@pytest.mark.slow
def test_answers_are_timed(accelerator):
    (row,) = accelerator.decode("toy")
    assert row["batch"] == 1 and row["tokens_per_s"] > 0


def test_updates_are_timed_and_counted_exactly(accelerator):
    row = next(accelerator.train("toy"))
    # Width 32, one layer, MLP of 128, vocabulary of 64, context 16, by matrix product; three times.
    forward = 2 * 32 * (3 * 32 + 32 + 2 * 128 + 64) + 4 * 16 * 32
    assert row["flops_per_s"] / row["tokens_per_s"] == pytest.approx(3 * forward)
    assert row["tokens_per_s"] == pytest.approx(2 * 16 / (row["ms"] / 1e3))


def test_a_batch_that_does_not_fit_is_halved(accelerator):
    asked = []

    def make(shape):
        asked.append(shape.batch_size)
        if shape.batch_size > 8:
            raise RuntimeError("RESOURCE_EXHAUSTED: out of memory")
        return lambda n: None

    shape, run, _ = accelerator.fitting(make, accelerator.Shape("gpt2", 1024, 32))
    assert asked == [32, 16, 8] and shape.batch_size == 8 and run is not None
    _, run, reason = accelerator.fitting(lambda shape: 1 / 0, shape)
    assert run is None and reason == "ZeroDivisionError: division by zero"


def ended(pid):
    """Whether a process is no more, within two seconds."""
    for _ in range(40):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state == "Z":  # nobody has taken its status yet
            return True
        time.sleep(0.05)
    return False


def test_rows_of_a_stopped_part_are_kept(accelerator, tmp_path, monkeypatch):
    script, pid = tmp_path / "part.py", tmp_path / "pid"
    script.write_text(
        "import subprocess, sys, time\n"
        "print('a log line')\n"
        "inner = subprocess.Popen(['sleep', '60'], stdout=subprocess.DEVNULL)\n"
        f"open({str(pid)!r}, 'w').write(str(inner.pid))\n"
        'print(\'= {"part": "train", "ms": 1.5}\', flush=True)\n'
        "time.sleep(60) if 'train' in sys.argv[1] else sys.exit(3)\n"
    )
    monkeypatch.setattr(accelerator, "__file__", str(script))
    stopped = list(accelerator.rows_of("train", "toy", 3.0))
    assert stopped[0] == {"part": "train", "ms": 1.5}
    assert stopped[1] == {"part": "train", "failed": "stopped after 3 s"}
    assert ended(int(pid.read_text())), "what a part had started was left running"
    assert list(accelerator.rows_of("fp8", "toy", 30.0))[-1]["failed"] == "ended with status 3"
    assert list(accelerator.rows_of("fp8", "toy", 0.0)) == [
        {"part": "fp8", "skipped": "no time was left"}
    ]


@pytest.mark.slow
def test_every_part_by_its_command(accelerator, tmp_path):
    out = tmp_path / "found.jsonl"
    command = [sys.executable, str(SCRIPT), "--size=toy", f"--out={out}", "--seconds=1500"]
    subprocess.run(command, check=True)
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert {row["part"] for row in rows} == {"device", *accelerator.PARTS}
    failed = [row for row in rows if "failed" in row]
    assert [row.get("kernel") for row in failed] == ["cudnn"], failed
    law = next(row for row in rows if row["part"] == "law")
    assert law["cells"] == 6 and "alpha" in law["laws"]["chinchilla_parametric"]
