"""The start of a job: experiment and flags, checked config, checked machine, and the job itself."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from gptjax import job
from gptjax.config import make_config
from gptjax.experiment import absolute, load, override
from gptjax.files import user_path
from gptjax.stages.checks import check_before


def run_experiment(
    experiment: str, overrides: Iterable[tuple[str, str | None]], workdir: str
) -> int:
    """Run an experiment file with overrides; returns the exit status.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    return run(override(load(experiment), overrides), workdir, absolute(experiment))


def run(values: Mapping[str, Any], workdir: str, experiment: str = "") -> int:
    """Check the config and run the job that it names; returns the exit status.

    Args:
      experiment: the file that gave the values, for worker processes.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    config = dataclasses.replace(make_config(values), experiment_file=experiment)
    folder = user_path(workdir) if workdir else Path("runs") / config.general.experiment
    task = job.find(config.general.job)
    check_before(config, task, folder)
    return task.main(config, folder)
