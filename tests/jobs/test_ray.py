"""sweep.engine=ray on a real cluster of two nodes, one of which is lost while it trains."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_kill import (
    arguments,
    finish,
    place,  # noqa: F401
    same_bytes,
    wait_for_worker,
)

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'gptjax[ray]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="finds the processes under /proc"),
]

LONG = {"sweep.budgets": "(3e10,6e10)", "train.checkpoint_seconds": 0.5}


@pytest.fixture(scope="module")
def straight(place):  # noqa: F811
    """The sweep by processes of this machine, never interrupted."""
    finish(arguments(place, place / "straight", **LONG))
    return place / "straight"


@pytest.fixture
def cluster():
    """Two nodes of one CPU each, with processes of their own on this machine."""
    from ray.cluster_utils import Cluster

    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    made.add_node(num_cpus=1)
    yield made
    made.shutdown()


def children(pid: int) -> list[int]:
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if parent == pid:
            found.append(int(stat.parent.name))
    return found


def saved_step(folder: Path) -> int:
    """The step of the last complete checkpoint under a cell's or a trunk's folder; 0 for none."""
    steps = [path.name for path in folder.glob("*/checkpoints/last/*") if path.name.isdigit()]
    return max(map(int, steps), default=0)


def wait_for_checkpoint(workdir: Path, raylet: int) -> str:
    """The cell that the node of this raylet trains, once it has saved something of it."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        workers = children(raylet)
        for path in (workdir / "progress").glob("*.json"):
            try:
                state = json.loads(path.read_text())
                claim = json.loads(
                    max((workdir / "claims" / state["claim"]).glob("*.json")).read_text()
                )
            except (OSError, ValueError):
                continue
            saved = max(saved_step(workdir / "cells" / state[name]) for name in ("claim", "cell"))
            if claim["pid"] in workers and saved > 0 and state["step"] < 0.7 * state["steps"]:
                return state["cell"]
        time.sleep(0.02)
    raise AssertionError("the node saved nothing")


def updates(workdir: Path, cell: str) -> int:
    return json.loads((workdir / "timing" / f"{cell}.json").read_text())["updates"]


def worker(workdir: Path, cell: str) -> int:
    """The process number in the name of the worker that ended a cell."""
    timing = json.loads((workdir / "timing" / f"{cell}.json").read_text())
    return int(timing["worker"].split("-")[-2])


def test_a_lost_node_changes_no_byte(place, straight, cluster):  # noqa: F811
    """Its bundle is continued on the other node, from the last checkpoint and not from zero."""
    broken = place / "broken"
    settings = {**LONG, "sweep.engine": "ray", "sweep.address": cluster.address}
    process = subprocess.Popen(
        arguments(place, broken, **settings),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    raylet = cluster.worker_nodes.copy().pop().all_processes["raylet"][0].process.pid
    cell = wait_for_checkpoint(broken, raylet)
    lost = children(raylet)
    for pid in (raylet, *lost):
        os.kill(pid, signal.SIGKILL)
    output, errors = process.communicate(timeout=400)
    assert process.returncode == 0, output + errors
    same_bytes(straight, broken)
    assert worker(broken, cell) not in lost
    assert 0 < updates(broken, cell) < updates(straight, cell)


def test_a_tuning_on_a_cluster_finds_what_one_here_finds(place, cluster):  # noqa: F811
    tuned = {
        "job": "tune",
        "sweep.tune": True,
        "sweep.tune_sizes": 2,
        "optim.learning_rate": 2e-3,
        "optim.schedule": "constant",  # without a decay both sizes do best inside of the grid
        "optim.warmup_steps": 0,
        "sweep.tune_factors": "(1,2,4,8,16)",
        "sweep.budgets": "(1e9,2e9)",
    }
    here, there = place / "tuned-here", place / "tuned-there"
    finish(arguments(place, here, **tuned))
    ray_ones = {"sweep.engine": "ray", "sweep.address": cluster.address}
    finish(arguments(place, there, **tuned, **ray_ones))
    assert (here / "tune.json").read_bytes() == (there / "tune.json").read_bytes()
    timing = [json.loads(path.read_text()) for path in there.glob("tune/*/timing/*.json")]
    assert timing and all(one["worker"].endswith("-ray") for one in timing)


def test_sigterm_saves_and_the_same_command_continues(place, straight):  # noqa: F811
    workdir = place / "stopped"
    settings = {**LONG, "sweep.engine": "ray", "sweep.address": "local"}
    command = arguments(place, workdir, **settings)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    waited = time.monotonic()
    while not any((workdir / "progress").glob("*.json")) and time.monotonic() - waited < 120:
        time.sleep(0.05)
    process.terminate()
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 75
    assert "the same command continues" in errors and "Traceback" not in errors
    assert max(saved_step(folder) for folder in (workdir / "cells").iterdir()) > 0
    finish(command)
    same_bytes(straight, workdir)


def test_a_cell_whose_task_is_killed_is_failed_and_the_rest_is_done(place):  # noqa: F811
    """A lost process is not a lost node: it counts as a try of its cell."""
    workdir = place / "crashed"
    settings = {"sweep.engine": "ray", "sweep.address": "local", "sweep.attempts": 1}
    settings["sweep.widths"] = "(8,12,16,24)"
    command = arguments(place, workdir, **settings)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    os.kill(wait_for_worker(workdir), signal.SIGKILL)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, output + errors
    records = [json.loads(path.read_text()) for path in (workdir / "records").iterdir()]
    failed = [record for record in records if record["status"] == "failed"]
    assert len(records) == 8 and len(failed) == 1
    assert "its Ray task ended: The worker died unexpectedly" in failed[0]["reason"]
