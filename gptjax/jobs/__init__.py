"""One file for each thing that `config.job` may name; each has `main(setup, workdir) -> status`."""

import importlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def run_experiment(
    experiment: str, overrides: Iterable[tuple[str, str | None]], workdir: str
) -> int:
    """Run an experiment file with overrides; returns the exit status.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    from gptjax.jobs.experiment import load, override

    return run(override(load(experiment), overrides), workdir)


def run(config: Mapping[str, Any], workdir: str) -> int:
    """Check the config and run the job that it names; returns the exit status.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    from gptjax import build
    from gptjax.jobs.checks import check_before

    setup = build.make_setup(config)
    folder = Path(workdir) if workdir else Path("runs") / setup.general.experiment
    check_before(setup, folder)
    job = importlib.import_module(f"gptjax.jobs.{setup.general.job}")
    return job.main(setup, folder)
