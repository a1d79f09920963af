"""Documented launch commands: each prints its command in a dry run, and its flags make a config."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from gptjax import config as configs
from gptjax import experiment
from gptjax.main import parse

REPO = Path(__file__).parents[2]
PAGES = ("docs/scaling_up.md", "launch/README.md")


def commands():
    """Every indented command of the pages, its continued lines joined."""
    found = []
    for page in PAGES:
        text = (REPO / page).read_text(encoding="utf-8").replace("\\\n", " ")
        found += [line.strip() for line in text.splitlines() if line.startswith("    ")]
    return found


LAUNCHED = [one for one in commands() if re.match(r"(launch/|sbatch )", one)]
FLAGS = [one for one in commands() if "--config=experiments/" in one and "$" not in one]


def test_there_are_some():
    assert {shlex.split(one)[0] for one in LAUNCHED} == {
        "launch/tpu_pod.sh",
        "launch/gke.sh",
        "sbatch",
    }
    assert len(FLAGS) >= 8


@pytest.mark.parametrize("command", LAUNCHED)
def test_a_dry_run_prints_the_command(command):
    words = shlex.split(command)
    if words[0] == "sbatch":
        words = ["bash", *words[next(i for i, w in enumerate(words) if w.startswith("launch/")) :]]
    elif "--dry-run" not in words:
        words.insert(1, "--dry-run")
    environment = {**os.environ, "GPTJAX_DRY_RUN": "1"}
    done = subprocess.run(words, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "gptjax.main" in done.stdout


@pytest.mark.parametrize("command", FLAGS)
def test_its_flags_make_a_config(command, monkeypatch):
    monkeypatch.chdir(REPO)
    flags = [word for word in shlex.split(command.rstrip("&")) if word.startswith("--config")]
    parsed = parse(["gptjax", *flags])
    configs.make_config(experiment.override(experiment.load(parsed.experiment), parsed.overrides))
