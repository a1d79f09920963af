"""One file for each thing that `config.job` may name; each has `main(setup, workdir) -> status`."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def run(config: Mapping[str, Any], workdir: str) -> int:
    """Check the config and run the job that it names; returns the exit status.

    Raises:
      UserError: for everything that is the user's to mend.
    """
    from gptjax import build

    setup = build.make_setup(config)
    folder = Path(workdir) if workdir else Path("runs") / setup.general.experiment
    job = importlib.import_module(f"gptjax.jobs.{setup.general.job}")
    return job.main(setup, folder)
