"""Launch scripts of TPU pods, GKE and Slurm with stubs of gcloud, kubectl, srun and scontrol.

A stub records its arguments, so that no cluster is needed.
"""

import json
import os
import shutil
import stat
import subprocess
from pathlib import Path

import pytest

LAUNCH = Path(__file__).parents[2] / "launch"
TPU = ["--name=big", "--zone=z", "--type=v5p-512", "--bucket=b"]
GKE = ["--name=big", "--image=i", "--accelerator=tpu-v6e-slice", "--topology=4x8", "--bucket=b"]
FLAGS = ["--config=x.py", "--config.data.path=a b", '--config.experiment=say "so"']


@pytest.fixture
def recorders(tmp_path):
    """Commands that write their arguments to calls.jsonl, and what they answer."""
    folder = tmp_path / "bin"
    folder.mkdir()

    def record(name, body=""):
        path = folder / name
        path.write_text(
            "#!/usr/bin/env python3\nimport json, os, pathlib, sys\n"
            f"log = pathlib.Path({str(tmp_path / 'calls.jsonl')!r})\n"
            "calls = log.read_text().splitlines() if log.exists() else []\n"
            "with log.open('a') as file: file.write(json.dumps(sys.argv) + chr(10))\n"
            f"{body}\n"
        )
        path.chmod(path.stat().st_mode | stat.S_IEXEC)

    record.calls = lambda: [
        [Path(call[0]).name, *call[1:]]
        for call in map(json.loads, (tmp_path / "calls.jsonl").read_text().splitlines())
    ]
    record.path = f"{folder}{os.pathsep}{os.environ['PATH']}"
    return record


def launch(script, *arguments, path=None, **variables):
    environment = {**os.environ, "PATH": path or os.environ["PATH"], **variables}
    command = [os.fspath(LAUNCH / script), *arguments]
    if script.endswith(".sbatch"):
        command = ["bash", *command]
    return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)


def words(call):
    return " ".join(call[:4])


def test_tpu_pod_makes_installs_runs_and_deletes(recorders):
    recorders("gcloud", "if 'describe' in sys.argv: print('ACTIVE')")
    recorders("tar")
    done = launch("tpu_pod.sh", *TPU, "--spot", "--", *FLAGS, path=recorders.path)
    assert done.returncode == 0, done.stderr
    calls = [call for call in recorders.calls() if "describe" not in call]
    assert [words(call) for call in calls if call[0] == "gcloud"] == [
        "gcloud compute tpus queued-resources",
        "gcloud compute tpus tpu-vm",
        "gcloud compute tpus tpu-vm",
        "gcloud compute tpus tpu-vm",
        "gcloud compute tpus queued-resources",
    ]
    assert "--spot" in calls[0] and "--accelerator-type=v5p-512" in calls[0]
    remote = next(word for word in calls[-2] if word.startswith("--command="))
    assert r"--config.data.path=a\ b" in remote and r"say\ \"so\"" in remote
    assert "--config.distributed=true" in remote and "75" in remote
    assert calls[-1][4:6] == ["delete", "big"]


def test_tpu_pod_starts_again_when_the_slice_is_taken(recorders):
    """The first training call fails, and then the resource is SUSPENDED once."""
    recorders(
        "gcloud",
        "ran = sum('gptjax.main' in call for call in calls)\n"
        "made = sum('create' in call for call in calls)\n"
        "if 'describe' in sys.argv: print('SUSPENDED' if ran == 1 and made == 1 else 'ACTIVE')\n"
        "if 'gptjax.main' in ' '.join(sys.argv) and ran == 0: sys.exit(1)",
    )
    recorders("tar")
    done = launch("tpu_pod.sh", *TPU, "--", *FLAGS, path=recorders.path)
    assert done.returncode == 0, done.stderr
    calls = recorders.calls()
    assert sum("create" in call for call in calls) == 2
    assert sum("gptjax.main" in " ".join(call) for call in calls) == 2
    assert sum("delete" in call for call in calls) == 2


def test_a_failure_on_a_slice_that_is_there_is_the_end(recorders):
    recorders(
        "gcloud",
        "if 'describe' in sys.argv: print('ACTIVE')\n"
        "if 'gptjax.main' in ' '.join(sys.argv): sys.exit(2)",
    )
    recorders("tar")
    done = launch("tpu_pod.sh", *TPU, "--keep", "--", *FLAGS, path=recorders.path)
    assert done.returncode == 2
    assert not any("delete" in call for call in recorders.calls())


def test_gke_fills_in_the_jobset(recorders, tmp_path):
    manifest = tmp_path / "manifest.yaml"
    recorders(
        "kubectl",
        f"if 'apply' in sys.argv: pathlib.Path({str(manifest)!r}).write_text(sys.stdin.read())",
    )
    done = launch("gke.sh", *GKE, "--", *FLAGS, path=recorders.path)
    assert done.returncode == 0, done.stderr
    assert [call[1] for call in recorders.calls()] == ["apply", "wait", "logs", "wait", "delete"]
    text = manifest.read_text()
    assert "@" not in text.replace("@NAMES@", "")
    line = next(line for line in text.splitlines() if "args:" in line)
    assert json.loads(line.partition("args:")[2]) == [
        *FLAGS,
        "--config.distributed=true",
        "--workdir=/runs/big",
    ]
    assert "parallelism: 8" in text and "google.com/tpu: 4" in text


def test_slurm_runs_one_command_on_all_nodes(recorders):
    recorders("srun")
    done = launch("slurm.sbatch", *FLAGS, path=recorders.path, GPTJAX_PYTHON="py")
    assert done.returncode == 0, done.stderr
    assert recorders.calls() == [
        [
            "srun",
            "--kill-on-bad-exit=1",
            "py",
            "-m",
            "gptjax.main",
            *FLAGS,
            "--config.distributed=true",
        ],
    ]


def test_slurm_array_shares_a_folder(recorders, tmp_path):
    """The first task runs the command, the others join its folder."""
    recorders("srun")
    (tmp_path / "config.json").touch()
    task = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_CPUS_PER_TASK": "4"}
    for number in ("3", "4"):
        done = launch(
            "slurm_array.sbatch",
            *FLAGS,
            f"--workdir={tmp_path}",
            path=recorders.path,
            GPTJAX_PYTHON="py",
            SLURM_ARRAY_TASK_ID=number,
            **task,
        )
        assert done.returncode == 0, done.stderr
    command = [
        "srun",
        "--kill-on-bad-exit=1",
        "py",
        "-m",
        "gptjax.main",
        *FLAGS,
        f"--workdir={tmp_path}",
        "--config.sweep.workers=4",
    ]
    assert recorders.calls() == [command, [*command, "--config.job=work"]]


def test_slurm_array_leaves_devices_to_the_worker(recorders, tmp_path):
    recorders("srun")
    launch(
        "slurm_array.sbatch",
        *FLAGS,
        f"--workdir={tmp_path}",
        path=recorders.path,
        SLURM_GPUS_PER_TASK="1",
    )
    assert "--config.sweep.workers" not in " ".join(recorders.calls()[0])


@pytest.mark.parametrize("script, job", [("slurm.sbatch", "7"), ("slurm_array.sbatch", "6_1")])
@pytest.mark.parametrize(
    "status, state, queued_again",
    [(75, "RUNNING", True), (75, "COMPLETING", False), (2, "RUNNING", False)],
)
def test_slurm_queues_again_only_what_is_saved(recorders, script, job, status, state, queued_again):
    recorders("srun", f"sys.exit({status})")
    recorders("scontrol", f"print('JobId=7 JobState={state} Reason=None')")
    variables = {"SLURM_JOB_ID": "7", "SLURM_ARRAY_JOB_ID": "6", "SLURM_ARRAY_TASK_ID": "1"}
    variables["SLURM_ARRAY_TASK_MIN"] = "1"
    done = launch(script, *FLAGS, "--workdir=w", path=recorders.path, **variables)
    assert (["scontrol", "requeue", job] in recorders.calls()) == queued_again
    assert done.returncode == (0 if queued_again else status)


@pytest.mark.parametrize("script, options", [("tpu_pod.sh", TPU), ("gke.sh", GKE)])
def test_a_dry_run_calls_nothing(recorders, script, options):
    for name in ("gcloud", "kubectl", "tar"):
        recorders(name)
    done = launch(script, "--dry-run", *options, "--", *FLAGS, path=recorders.path)
    assert done.returncode == 0 and "+ " in done.stdout
    with pytest.raises(FileNotFoundError):
        recorders.calls()


@pytest.mark.parametrize(
    "script, arguments, sentence",
    [
        ("tpu_pod.sh", ["--name=big"], "--zone is missing"),
        ("tpu_pod.sh", TPU, "no flags for gptjax"),
        ("gke.sh", ["--nam=big"], "--nam=big is not an option"),
        ("gke.sh", [*GKE, "--chips=5", "--", "x"], "32 chips, no multiple of --chips=5"),
        ("slurm.sbatch", [], "no flags for gptjax"),
        ("slurm_array.sbatch", FLAGS, "--workdir is missing"),
    ],
)
def test_what_is_missing_is_said(script, arguments, sentence):
    done = launch(script, *arguments)
    assert done.returncode == 2
    assert sentence in done.stderr


def test_shellcheck():
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    here = Path(__file__).parent
    scripts = [*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.sbatch"), *here.glob("*.sh")]
    done = subprocess.run(["shellcheck", *scripts], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
