"""Real processes on the loopback address against one process."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPO = Path(__file__).parents[2]
SETTINGS = {
    "model.depth": 2,
    "model.width": 32,
    "model.num_heads": 2,
    "model.seq_len": 16,
    "model.vocab_size": 258,
    "train.tokens": 0,
    "train.steps": 40,
    "train.batch_size": 8,
    "train.evaluations": 2,
    "train.keep_best": "false",
    "train.tensorboard": "false",
    "train.feed": "host",
    "data.source": "zipf-facts",
    "data.zipf_facts.tokens": 4096,
    "data.zipf_facts.heldout_tokens": 2048,
    "optim.learning_rate": 1e-2,
    "compilation_cache": "off",
    "device": "cpu",
}


def start(folder, count, devices, **settings):
    """`count` processes of one run with `devices` devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {**SETTINGS, "data.cache_dir": folder / "cache", **settings}
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [
        sys.executable,
        "-m",
        "gptjax.main",
        "--config=experiments/train_gpt2_small.py",
        f"--workdir={folder / 'run'}",
        *flags,
    ]
    found = []
    for process in range(count):
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices)}
        if count > 1:
            environment |= {
                "GPTJAX_COORDINATOR": f"127.0.0.1:{port}",
                "GPTJAX_PROCESSES": str(count),
                "GPTJAX_PROCESS": str(process),
            }
            command[-1:] = [flags[-1], "--config.distributed=true"]
        log = open(folder / f"{process}.log", "a")  # noqa: SIM115
        found.append(
            subprocess.Popen(command, cwd=REPO, env=environment, stdout=log, stderr=log, text=True)
        )
    return found


def finish(folder, processes, status=0):
    done = [process.wait(timeout=300) for process in processes]
    logs = "".join(path.read_text()[-3000:] for path in folder.glob("*.log"))
    assert done == [status] * len(done), logs


def result(folder):
    return json.loads((folder / "run" / "result.json").read_text())


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    folder = tmp_path_factory.mktemp("one")
    finish(folder, start(folder, 1, 1))
    return result(folder)


@pytest.mark.slow
@pytest.mark.parametrize("count, mesh", [(2, {"mesh.fsdp": 2}), (4, {"mesh.tensor": 2})])
def test_processes_equal_one(one_process, tmp_path, count, mesh):
    finish(tmp_path, start(tmp_path, count, 1, **mesh))
    assert result(tmp_path)["loss"] == pytest.approx(one_process["loss"], abs=1e-4)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "train/loss_nats" in line]
    assert steps == list(range(1, 41))  # written once


@pytest.mark.slow
def test_a_stopped_run_goes_on_with_another_number_of_processes(one_process, tmp_path):
    processes = start(tmp_path, 2, 2, **{"mesh.fsdp": 4, "train.steps": 40})
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("loss_nats") >= 2):
        assert all(process.poll() is None for process in processes), (
            tmp_path / "0.log"
        ).read_text()[-3000:]
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    finish(tmp_path, processes, status=75)
    finish(tmp_path, start(tmp_path, 1, 2, **{"mesh.tensor": 2}))
    assert result(tmp_path)["loss"] == pytest.approx(one_process["loss"], abs=1e-4)


@pytest.mark.slow
def test_a_hang_is_an_error_that_says_where(tmp_path):
    """One of two processes is stopped in the middle; the other says so and leaves with 75.

    tests/train/test_watchdog.py has the watchdog alone.
    """
    processes = start(
        tmp_path,
        2,
        1,
        **{"train.steps": 100_000, "train.hang_seconds": 8, "mesh.fsdp": 2, "model.depth": 1},
    )
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        while not (metrics.exists() and metrics.read_text().count("loss_nats") >= 20):
            assert all(process.poll() is None for process in processes), (
                tmp_path / "0.log"
            ).read_text()[-3000:]
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGSTOP)
        assert processes[0].wait(timeout=60) == 75
    finally:
        for process in processes:
            process.kill()
    said = (tmp_path / "0.log").read_text()
    assert "process 0 of 2 on" in said and "train.hang_seconds" in said
    assert "at steps " in said or "at agreeing " in said
    if "at steps " in said:
        assert "all-gather over fsdp" in said


@pytest.mark.slow
def test_a_flipped_bit_of_a_checkpoint_of_two_processes_is_found(tmp_path):
    """Shards of two processes have one checksum, whatever number of processes reads them."""
    long = {"mesh.fsdp": 2, "train.steps": 100_000}
    processes = start(tmp_path, 2, 1, **long)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.exists() and metrics.read_text().count("loss_nats") >= 2):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    finish(tmp_path, processes, status=75)
    checkpoints = tmp_path / "run" / "checkpoints"
    step = newest(checkpoints)
    said = checkpoints / "sha256" / f"last-{step.name}.json"
    assert json.loads(said.read_text()).startswith("sums:")
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    finish(tmp_path, start(tmp_path, 2, 1, **long), status=2)
    assert f"{step} is damaged" in (tmp_path / "0.log").read_text()
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    several = start(tmp_path, 1, 2, **{**long, "train.checkpoint_seconds": 0.01})
    while int(newest(checkpoints).name) == int(step.name):
        assert several[0].poll() is None, (tmp_path / "0.log").read_text()[-3000:]
        time.sleep(0.05)
    several[0].send_signal(signal.SIGTERM)
    finish(tmp_path, several, status=75)
    several_read_what_one_saved(tmp_path, checkpoints, long)


def newest(checkpoints):
    """The folder of the last step that was saved."""
    saved = (path for path in (checkpoints / "last").iterdir() if path.name.isdecimal())
    return max(saved, key=lambda path: int(path.name))


def several_read_what_one_saved(place, checkpoints, settings):
    """Two processes gather the state of one to compare its SHA-256, damaged and mended."""
    step = newest(checkpoints)
    assert not json.loads(
        (checkpoints / "sha256" / f"last-{step.name}.json").read_text()
    ).startswith("sums:")
    largest = max((p for p in step.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    finish(place, start(place, 2, 1, **settings), status=2)
    assert f"{step} is damaged" in (place / "0.log").read_text()
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    both = start(place, 2, 1, **{**settings, "train.checkpoint_seconds": 0.01})
    while int(newest(checkpoints).name) == int(step.name):
        assert both[0].poll() is None, (place / "0.log").read_text()[-3000:]
        time.sleep(0.05)
    both[0].send_signal(signal.SIGTERM)
    finish(place, both, status=75)


@pytest.mark.slow
def test_a_mixture_is_read_alike_by_two_processes_and_after_a_kill(tmp_path):
    """Without processes, at any step: tests/train/test_mixed_sources.py."""
    for label, base in (("words", 23), ("numbers", 31)):
        (tmp_path / label).mkdir()
        for i in range(40):
            text = " ".join(f"{label}{(i * k) % base} {k % 7}" for k in range(60))
            (tmp_path / label / f"{i}.txt").write_text(f"{label} {i}\n{text}\n")
    named = [f"{label}: source=text path={tmp_path / label}" for label in ("words", "numbers")]
    settings = {
        "data.source": "text",
        "data.sources": str(tuple(named)),
        "data.weights": "(0.75,0.25,0.1,0.9)",
        "data.phases": "(0.5,)",
        "data.repeats": 1000,
        "data.heldout_fraction": 0.2,
        "train.steps": 300,
    }
    few, often = {**settings, "train.steps": 40}, {**settings, "train.checkpoint_seconds": 0.01}
    places = [tmp_path / name for name in ("short", "two", "one", "killed")]
    for place in places:
        place.mkdir()
    short, two, one, killed = places
    finish(short, start(short, 1, 1, **few))
    finish(two, start(two, 2, 1, **{**few, "mesh.data": 2}))
    assert result(two)["loss"] == pytest.approx(result(short)["loss"], abs=1e-4)
    finish(one, start(one, 1, 1, **settings))
    (process,) = start(killed, 1, 1, **often)
    checkpoints = killed / "run" / "checkpoints"
    while not ((checkpoints / "last").exists() and any((checkpoints / "last").glob("[0-9]*"))):
        assert process.poll() is None, (killed / "0.log").read_text()[-3000:]
        time.sleep(0.02)
    process.kill()
    assert process.wait(timeout=60) == -signal.SIGKILL, "it ended before it was killed"
    finish(killed, start(killed, 1, 1, **settings))
    names = ("loss", "sources")
    assert [result(killed)[name] for name in names] == [result(one)[name] for name in names]
    lines = (killed / "run" / "metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines if "train/loss_nats" in line]
    assert steps == sorted(set(steps)) and steps[-1] == 300
