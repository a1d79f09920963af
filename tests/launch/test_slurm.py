"""Slurm batch scripts on a real cluster of two nodes at this machine's loopback address.

A stub of srun would not show requeues, time limits and lost nodes.

tests/launch/slurm_cluster.sh install && python -m pytest -m slow tests/launch/test_slurm.py
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
REPO = HERE.parents[1]
INSTALLED = all(map(shutil.which, ("slurmctld", "slurmd", "munged")))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not INSTALLED, reason="run tests/launch/slurm_cluster.sh install as root"),
    pytest.mark.skipif(os.geteuid() != 0, reason="starts slurmd, which wants root"),
]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("slurm")


@pytest.fixture(scope="module")
def cluster(root):
    """Two idle nodes; what is submitted runs this checkout."""
    folder = root / "cluster"
    folder.mkdir()
    script = HERE / "slurm_cluster.sh"
    variables = {
        "SLURM_CONF": str(folder / "slurm.conf"),
        "GPTJAX_PYTHON": sys.executable,
        "PYTHONPATH": f"{REPO}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        subprocess.run([script, "start", folder], check=True, timeout=60)
        yield folder
        subprocess.run(["scancel", "--user=root"], check=True, timeout=60)
        subprocess.run([script, "stop", folder], check=True, timeout=60)


def output_of(*command) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


def flags(root: Path, workdir: Path) -> list[str]:
    """A sweep of six cells of some seconds each on a generated corpus."""
    settings = {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 2**18,
        "data.zipf_facts.heldout_tokens": 2**14,
        "data.cache_dir": root / "cache",
        "model.depth": 1,
        "model.seq_len": 32,
        "sweep.budgets": "(3e10,6e10)",
        "sweep.widths": "(8,16,24)",
        "sweep.head_width": 8,
        "sweep.rule": "fixed",
        "train.batch_size": 8,
        "train.checkpoint_seconds": 0.5,
        "optim.learning_rate": 1e-2,
        "fit.resamples": 20,
        "report.formats": "('png',)",
        "report.dpi": 50,
        "fit.diagnostics": False,
        "fit.approaches": "('parametric',)",
        "config.device": "cpu",
    }
    found = [f"--config.{name.removeprefix('config.')}={value}" for name, value in settings.items()]
    experiment = REPO / "experiments" / "chinchilla_sweep.py"
    return [f"--config={experiment}", f"--workdir={workdir}", *found]


@pytest.fixture(scope="module")
def straight(root):
    """The same sweep by processes of this machine, never interrupted."""
    folder = root / "straight"
    command = [sys.executable, "-m", "gptjax.main", *flags(root, folder)]
    subprocess.run(command, check=True, capture_output=True, timeout=400, cwd=REPO)
    return folder


def submit(log: Path, *arguments) -> str:
    """Put a job in the queue; returns its number."""
    return output_of("sbatch", "--parsable", f"--output={log}", *arguments).strip()


def state(job: str) -> str:
    """PENDING, RUNNING, COMPLETED, CANCELLED, ..., also of a job that is over."""
    fields = dict(
        word.partition("=")[::2]
        for word in output_of("scontrol", "show", "job", job, "--oneliner").split()
        if "=" in word
    )
    return fields["JobState"]


def wait_for_end(job: str, seconds: float = 400) -> str:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        found = state(job)
        if found == "PENDING":  # one that was queued again is held back for two minutes
            subprocess.run(["scontrol", "update", f"jobid={job}", "StartTime=now"], check=False)
        if found not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING"):
            return found
        time.sleep(0.5)
    raise AssertionError(f"job {job} is {state(job)}")


def processes_of(job: str) -> list[int]:
    """The batch script of the array task JOB_NUMBER, its srun, the sweep and its worker."""
    array, _, task = job.partition("_")
    wanted = {f"SLURM_ARRAY_JOB_ID={array}".encode(), f"SLURM_ARRAY_TASK_ID={task}".encode()}
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if wanted <= set(path.read_bytes().split(b"\0")):
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def saved_step(folder: Path) -> int:
    steps = [path.name for path in folder.glob("*/checkpoints/last/*") if path.name.isdigit()]
    return max(map(int, steps), default=0)


def wait_for_checkpoint(workdir: Path, job: str) -> str:
    """The cell that an array task trains, once it has saved something of it."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        for path in (workdir / "progress").glob("*.json"):
            try:
                shown = json.loads(path.read_text())
                claim = json.loads(
                    max((workdir / "claims" / shown["claim"]).glob("*.json")).read_text()
                )
                mine = claim["pid"] in processes_of(job)
            except (OSError, ValueError):
                continue
            saved = max(saved_step(workdir / "cells" / shown[name]) for name in ("claim", "cell"))
            if mine and saved > 0 and shown["step"] < 0.7 * shown["steps"]:
                return shown["cell"]
        time.sleep(0.02)
    raise AssertionError(f"job {job} saved nothing")


def updates(workdir: Path, cell: str) -> int:
    return json.loads((workdir / "timing" / f"{cell}.json").read_text())["updates"]


def same_records(a: Path, b: Path) -> None:
    names = sorted(path.name for path in (a / "records").iterdir())
    assert len(names) == 6
    assert names == sorted(path.name for path in (b / "records").iterdir())
    for name in (*(f"records/{name}" for name in names), "runs.csv", "laws.json"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), f"{name} differs"


def submit_array(root: Path, workdir: Path) -> str:
    options = ("--array=0-1", "--cpus-per-task=1", REPO / "launch" / "slurm_array.sbatch")
    return submit(root / f"{workdir.name}-%a.log", *options, *flags(root, workdir))


def test_a_killed_task_of_an_array_changes_no_byte(root, cluster, straight):
    """SIGKILL of all that the second task runs; the first continues from its checkpoint."""
    workdir = root / "killed"
    job = submit_array(root, workdir)
    cell = wait_for_checkpoint(workdir, f"{job}_1")
    for pid in processes_of(f"{job}_1"):
        os.kill(pid, signal.SIGKILL)
    assert wait_for_end(f"{job}_1") == "FAILED"
    assert wait_for_end(f"{job}_0") == "COMPLETED", (root / "killed-0.log").read_text()
    same_records(straight, workdir)
    assert 0 < updates(workdir, cell) < updates(straight, cell)


def test_a_task_that_is_told_to_stop_saves_and_is_queued_again(root, cluster, straight):
    """As by --signal before the end of its time: SIGTERM to the job's steps."""
    workdir = root / "told"
    job = submit_array(root, workdir)
    wait_for_checkpoint(workdir, f"{job}_0")
    output_of("scancel", "--signal=TERM", f"{job}_0")
    deadline = time.monotonic() + 60
    log = root / "told-0.log"
    while "queueing again" not in log.read_text():
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    for task in (f"{job}_1", f"{job}_0"):
        assert wait_for_end(task) == "COMPLETED", log.read_text()
    assert "stopped; the same command continues" in log.read_text()
    same_records(straight, workdir)


def test_a_cancelled_array_stays_cancelled(root, cluster):
    workdir = root / "cancelled"
    job = submit_array(root, workdir)
    wait_for_checkpoint(workdir, f"{job}_0")
    output_of("scancel", job)
    assert {wait_for_end(f"{job}_{task}", 120) for task in (0, 1)} == {"CANCELLED"}


def test_one_run_on_two_nodes(root, cluster):
    """slurm.sbatch: two processes that find each other by SLURM's variables."""
    workdir, log = root / "two", root / "two.log"
    settings = {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 2**14,
        "data.zipf_facts.heldout_tokens": 2**12,
        "data.cache_dir": root / "cache",
        "model.depth": 1,
        "model.width": 16,
        "model.num_heads": 2,
        "model.seq_len": 32,
        "model.vocab_size": 0,
        "train.steps": 20,
        "train.tokens": 0,
        "train.batch_size": 4,
        "train.tensorboard": False,
        "device": "cpu",
        "mesh.data": 2,
    }
    job = submit(
        log,
        "--nodes=2",
        "--gpus-per-node=0",
        "--cpus-per-task=1",
        REPO / "launch" / "slurm.sbatch",
        f"--config={REPO / 'experiments' / 'train_gpt2_small.py'}",
        f"--workdir={workdir}",
        *(f"--config.{name}={value}" for name, value in settings.items()),
    )
    assert wait_for_end(job) == "COMPLETED", log.read_text()
    assert "2 devices (cpu): data 2" in log.read_text()
    assert (workdir / "result.json").exists()
