"""Two commands job=train in one folder, and one that is killed: one run with the same bits.

pytest -m slow tests/faults/test_one_run.py
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc"),
]

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "train_gpt2_small.py"
SETTINGS = {
    "model.depth": 1,
    "model.width": 16,
    "model.num_heads": 2,
    "model.seq_len": 16,
    "model.vocab_size": 258,
    "model.dropout.embedding": 0.2,
    "model.dropout.attention": 0.1,
    "model.dropout.residual": 0.2,
    "train.tokens": 0,
    "train.steps": 60_000,
    "train.batch_size": 2,
    "train.evaluations": 1,
    "train.keep_best": "false",
    "train.tensorboard": "false",
    "train.checkpoint_seconds": 0.2,
    "data.source": "zipf-facts",
    "data.zipf_facts.tokens": 4096,
    "data.zipf_facts.heldout_tokens": 2048,
    "optim.learning_rate": 1e-3,
    "sweep.claim_seconds": 3,
    "device": "cpu",
}


def command(place: Path, name: str) -> list[str]:
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    head = [sys.executable, "-m", "gptjax.main", f"--config={EXPERIMENT}"]
    return [
        *head,
        f"--workdir={place / name}",
        f"--config.data.cache_dir={place / 'cache'}",
        *flags,
    ]


def start(words: list[str]) -> subprocess.Popen:
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def until_saved(folder: Path, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 300
    while not any(path.name.isdecimal() for path in (folder / "checkpoints" / "last").glob("*")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that met nothing, and the folder of the others."""
    place = tmp_path_factory.mktemp("one_run")
    done = subprocess.run(command(place, "straight"), capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_the_second_command_is_refused_and_a_stopped_first_one_leaves(straight):
    folder, words = straight / "two", command(straight, "two")
    first = start(words)
    until_saved(folder, first)
    refused = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "another command trains in" in refused.stderr
    assert "Traceback" not in refused.stderr and first.poll() is None
    os.kill(first.pid, signal.SIGSTOP)
    try:
        second = start(words)
        output, _ = second.communicate(timeout=400)
        assert second.returncode == 0, output
        assert "without a sign of life" in output
    finally:
        os.kill(first.pid, signal.SIGCONT)
    output, _ = first.communicate(timeout=300)
    assert first.returncode == 2 and "another command has taken over the run" in output
    assert "Traceback" not in output
    assert result(folder) == result(straight / "straight")


def test_dropout_killed_and_started_again_has_the_same_bits(straight):
    folder, words = straight / "killed", command(straight, "killed")
    process = start(words)
    until_saved(folder, process)
    process.kill()
    process.wait()
    assert not (folder / "result.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(folder) == result(straight / "straight")
