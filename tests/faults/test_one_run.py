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
    "train.steps": 3_000,
    "train.batch_size": 2,
    "train.evaluations": 1,
    "train.keep_best": "false",
    "train.tensorboard": "false",
    "train.checkpoint_seconds": 1000,
    "data.source": "zipf-facts",
    "data.zipf_facts.tokens": 4096,
    "data.zipf_facts.heldout_tokens": 2048,
    "optim.learning_rate": 1e-3,
    "sweep.claim_seconds": 3,
    "device": "cpu",
}
# After its first call a run saves, and waits while the file that HOLD names is there.
HELD = """
import os, time
from pathlib import Path
from gptjax.train.loop import _Run

plain, hold = _Run._stop_or_save, os.environ.get("HOLD", "")

def waiting(self, state):
    if hold and int(state.step):
        self.clock._saved_at = float("-inf")
    plain(self, state)
    while hold and int(state.step) and Path(hold).exists():
        time.sleep(0.05)

_Run._stop_or_save = waiting
"""


def command(place: Path, name: str) -> list[str]:
    flags = [f"--config.{key}={value}" for key, value in SETTINGS.items()]
    experiment = place / "train_held.py"
    experiment.write_text(EXPERIMENT.read_text() + HELD)
    head = [sys.executable, "-m", "gptjax.main", f"--config={experiment}"]
    return [
        *head,
        f"--workdir={place / name}",
        f"--config.data.cache_dir={place / 'cache'}",
        *flags,
    ]


def start(words: list[str], hold: Path | None = None) -> subprocess.Popen:
    """A command; with `hold` it goes on after its first save only when that file is removed."""
    others = {**os.environ, "HOLD": str(hold)} if hold else os.environ
    return subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=others
    )


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
    folder, words, hold = straight / "two", command(straight, "two"), straight / "hold"
    hold.touch()
    first = start(words, hold)
    until_saved(folder, first)
    refused = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert refused.returncode == 2 and "another command trains in" in refused.stderr
    assert "Traceback" not in refused.stderr and first.poll() is None
    os.kill(first.pid, signal.SIGSTOP)
    hold.unlink()
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
    folder, words, hold = straight / "killed", command(straight, "killed"), straight / "hold"
    hold.touch()
    process = start(words, hold)
    until_saved(folder, process)
    process.kill()
    hold.unlink()
    process.wait()
    assert not (folder / "result.json").exists()
    done = subprocess.run(words, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert result(folder) == result(straight / "straight")
