"""Jobs: one file for each name of `config.job`, with `main(config, workdir) -> status`."""

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
    from gptjax.experiment import load, override

    return run(override(load(experiment), overrides), workdir)


def run(values: Mapping[str, Any], workdir: str) -> int:
    """Check the config and run the job that it names; returns the exit status.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    from gptjax.config import make_config
    from gptjax.jobs.checks import check_before

    config = make_config(values)
    folder = Path(workdir) if workdir else Path("runs") / config.general.experiment
    check_before(config, folder)
    job = importlib.import_module(f"gptjax.jobs.{config.general.job}")
    return job.main(config, folder)
