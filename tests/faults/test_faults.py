"""Faults of machines, disks and shells on real processes: the same bytes, or a sentence.

pytest -m slow tests/faults
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "jobs"))
from test_kill import arguments, finish, kill_all, place, same_bytes  # noqa: F401

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc"),
]

ONE_WORKER = {"sweep.workers": 1, "sweep.claim_seconds": 2}


def wait_until(holds: Callable[[], object], seconds: float = 600.0) -> object:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise AssertionError("it did not come to that")


def claims(workdir: Path) -> Iterator[tuple[str, dict]]:
    for path in (workdir / "claims").glob("*/*.json"):
        try:
            yield path.parent.name, json.loads(path.read_text())
        except (OSError, ValueError):
            continue


def start(command: list[str], **others) -> subprocess.Popen:
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **others
    )


def ended(process: subprocess.Popen) -> str:
    output, _ = process.communicate(timeout=600)
    assert process.returncode == 0, output
    return output


def logs(workdir: Path) -> str:
    return "".join(path.read_text() for path in (workdir / "logs").iterdir())


@pytest.fixture(scope="module")
def straight(place):  # noqa: F811
    """A sweep that met no fault."""
    workdir = place / "straight"
    finish(arguments(place, workdir))
    return workdir


def test_a_worker_stopped_past_its_lease_leaves_the_cell_to_the_other(place, straight):  # noqa: F811
    workdir = place / "stopped"
    command = arguments(place, workdir, **ONE_WORKER)
    first = start(command)
    name, owner = wait_until(lambda: next(claims(workdir), None))
    os.kill(owner["pid"], signal.SIGSTOP)
    try:
        second = start([*command, "--config.job=work"])
        wait_until(lambda: len(list((workdir / "records").glob("*.json"))) == 6)
        assert not any(
            one["pid"] == owner["pid"] and there == name for there, one in claims(workdir)
        )
    finally:
        os.kill(owner["pid"], signal.SIGCONT)
    ended(second)
    ended(first)
    assert "another worker has taken over" in logs(workdir)
    same_bytes(straight, workdir)


def test_a_worker_stopped_for_ever_does_not_hold_up_the_end(place, straight):  # noqa: F811
    workdir = place / "stopped_for_ever"
    first = start(arguments(place, workdir, **{**ONE_WORKER, "sweep.workers": 2}))
    _, owner = wait_until(lambda: next(claims(workdir), None))
    os.kill(owner["pid"], signal.SIGSTOP)
    ended(first)
    same_bytes(straight, workdir)


def namespaces_work() -> bool:
    command = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    return bool(shutil.which("unshare")) and subprocess.run(command).returncode == 0


def test_two_containers_with_one_host_name_train_each_cell_once(place, straight):  # noqa: F811
    if not namespaces_work():
        pytest.skip("no right to make PID namespaces")
    workdir = place / "containers"
    command = ["unshare", "--pid", "--fork", "--mount-proc"]
    command += arguments(place, workdir, **{**ONE_WORKER, "sweep.claim_seconds": 60})
    both = [start(command) for _ in range(2)]
    for process in both:
        ended(process)
    tokens = [path.stem for path in (workdir / "claims").glob("*/*")]
    assert tokens and set(tokens) == {"1"}, "a live worker's claim was taken"
    same_bytes(straight, workdir)


def saved_steps(workdir: Path) -> list[Path]:
    return [
        path
        for path in (workdir / "cells").glob("*/*/checkpoints/last/*")
        if path.name.isdecimal() and (path / "default").exists()
    ]


def flip(step: Path) -> None:
    path = max(files(step), key=lambda path: path.stat().st_size)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def files(step: Path) -> list[Path]:
    return [path for path in step.rglob("*") if path.is_file()]


DAMAGE = {
    "flipped": flip,
    "cut off": lambda step: [os.truncate(path, path.stat().st_size // 2) for path in files(step)],
    "emptied": lambda step: [os.truncate(path, 0) for path in files(step)],
    "gone": lambda step: [path.unlink() for path in files(step)],
    "owner": lambda step: (step.parents[1] / "run.json").write_text("{"),
    "other owner": lambda step: (step.parents[1] / "run.json").write_text('{"identity": "x"}'),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_costs_time_and_no_bit(place, straight, damage):  # noqa: F811
    workdir = place / f"damaged {damage}"
    command = arguments(place, workdir, **ONE_WORKER)
    process = start(command)
    wait_until(lambda: saved_steps(workdir) or process.poll() is not None)
    kill_all(workdir)
    process.wait()
    hit = saved_steps(workdir)
    for step in hit:
        DAMAGE[damage](step)
    output = finish(command)
    assert hit and "failed" not in output
    same_bytes(straight, workdir)


@pytest.mark.parametrize(
    "variables",
    [
        {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"},
        {"JAX_ENABLE_X64": "1", "JAX_DEFAULT_PRNG_IMPL": "rbg", "JAX_RANDOM_SEED_OFFSET": "7"},
    ],
    ids=["eight devices", "64 bits and other random numbers"],
)
def test_what_a_shell_says_changes_no_bit(place, straight, variables):  # noqa: F811
    workdir = place / next(iter(variables))
    flags = " ".join([os.environ.get("XLA_FLAGS", ""), variables.get("XLA_FLAGS", "")]).strip()
    process = start(arguments(place, workdir), env={**os.environ, **variables, "XLA_FLAGS": flags})
    ended(process)
    same_bytes(straight, workdir)


def test_failed_cells_are_tried_again_when_asked(place, straight):  # noqa: F811
    workdir = place / "failed"
    command = arguments(place, workdir, **ONE_WORKER, **{"sweep.attempts": 1})
    process = start(command)
    os.kill(wait_until(lambda: next(claims(workdir), None))[1]["pid"], signal.SIGKILL)
    output = process.communicate(timeout=600)[0]
    assert "failed: its worker process ended with status -9" in output
    assert "--config.sweep.retry_failed=true tries failed cells again" in output
    finish([*command, "--config.sweep.retry_failed=true"])
    assert len(list((workdir / "failed").iterdir())) == 1
    same_bytes(straight, workdir)


def test_cells_of_two_versions_of_jax_are_not_mixed_without_a_word(place, straight):  # noqa: F811
    from gptjax.sweeps import records

    workdir = place / "mixed"
    shutil.copytree(straight, workdir)
    path = next((workdir / "records").iterdir())
    record = json.loads(path.read_text())
    record["made_by"]["jax"] = "0.99.0"
    path.write_text(json.dumps({**record, "sha256": records._checksum(record)}))
    command = [*arguments(place, workdir), "--config.job=fit"]
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 2 and "1 by jax 0.99 and jaxlib" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert "fitted together" in finish([*command, "--config.sweep.mixed=true"])
