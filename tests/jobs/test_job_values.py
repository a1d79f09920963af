"""Jobs as values: one file each, none knows another, and one from outside the package runs."""

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax import config as configs
from gptjax import job
from gptjax.errors import UserError
from gptjax.experiment import override
from gptjax.main import main

FOLDER = Path(job.__file__).parent / "jobs"
FILES = sorted(path.stem for path in FOLDER.glob("*.py") if path.stem != "__init__")

TOY = '''
"""job=greet: greet somebody."""

import dataclasses

from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job


@dataclasses.dataclass(frozen=True)
class Settings:
    """Whom job=greet greets."""

    name: str = setting("", "who is greeted")


def check(config):
    if not config.own["greet"].name:
        raise UserError("greet.name='' names nobody; give --config.greet.name=NAME")


def main(config, folder):
    write_json(folder / "greeting.json", {"hello": config.own["greet"].name})
    return 0


JOB = Job(main, Settings, check)
'''

EXPERIMENT = """
from gptjax import job

job.register("greet", "toy_greet")

from gptjax.config import default_config


def get_config():
    config = default_config()
    config.job = "greet"
    return config
"""


def test_every_file_is_one_job_of_the_table():
    assert {name: f"gptjax.jobs.{name}" for name in FILES} == job.JOBS
    assert all(isinstance(job.find(name), job.Job) for name in FILES)


@pytest.mark.parametrize("name", FILES)
def test_a_job_imports_no_job(name):
    tree = ast.parse((FOLDER / f"{name}.py").read_text())
    imported = [
        f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    ] + [a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names]
    assert not [text for text in imported if text.startswith("gptjax.jobs")]


def test_a_job_from_outside_runs_by_config(tmp_path, capsys, monkeypatch):
    (tmp_path / "toy_greet.py").write_text(TOY)
    (tmp_path / "experiment.py").write_text(EXPERIMENT)
    monkeypatch.syspath_prepend(tmp_path)
    command = ["gptjax", f"--config={tmp_path / 'experiment.py'}", f"--workdir={tmp_path / 'run'}"]
    try:
        assert main([*command, "--config.greet.name=world"]) == 0
        assert json.loads((tmp_path / "run" / "greeting.json").read_text()) == {"hello": "world"}
        assert main(command) == 2
        assert "greet.name='' names nobody" in capsys.readouterr().err
        assert main([*command, "--config.greet.nam=x"]) == 2
        assert "config.greet.nam is not a setting; did you mean name?" in capsys.readouterr().err
    finally:
        job.JOBS.pop("greet", None)


@pytest.mark.parametrize("old, new", configs.MOVED.items())
def test_the_old_key_of_a_jobs_setting_is_refused_with_the_new_one(tmp_path, old, new):
    with pytest.raises(UserError, match=f"config.{old} is not a setting; it is config.{new} now"):
        override(configs.default_config().to_dict(), [(old, "1")])
    with pytest.raises(UserError, match=f"config.{old} is not a setting; it is config.{new} now"):
        configs.make_config({old: 1})
    file = tmp_path / "old.py"
    file.write_text(
        "from gptjax.config import default_config\n"
        "def get_config():\n"
        "    config = default_config()\n"
        f"    config.{old} = 1\n"
    )
    from gptjax.experiment import load

    with pytest.raises(UserError, match=f"it is config.{new} now"):
        load(str(file))


SLOW = {
    *("matplotlib", "ray", "orbax", "jinja2", "datasets", "tensorflow", "tokenizers", "torch"),
    *("scipy.stats", "scipy.optimize", "scipy.special", "scipy.linalg"),
}


def imported_by(code: str) -> set[str]:
    """The modules in a fresh process after some code."""
    script = f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, text=True)
    return set(json.loads(out.stdout.splitlines()[-1]))


PLAN = Path(__file__).parents[2] / "experiments" / "chinchilla_sweep.py"


def test_before_an_experiment_is_read_nothing_slow_is_imported():
    known = imported_by(
        "from gptjax.main import main\n"
        "assert main(['gptjax', '--help']) == 0\n"
        "assert main(['gptjax', '--confg=x']) == 2\n"
        f"assert main(['gptjax', '--config={PLAN}', '--config.sweep.sizez=3']) == 2\n"
        f"assert main(['gptjax', '--config={PLAN}', '--config.table=3']) == 2\n"
        "assert main(['gptjax', '--config=missing.py']) == 2"
    )
    assert not known & {"jax", "numpy", "ml_collections", "rich", "flax", *SLOW}


def test_before_the_job_is_known_only_what_settings_need_is_imported():
    known = imported_by("from gptjax.config import default_config\ndefault_config()")
    assert not known & SLOW
