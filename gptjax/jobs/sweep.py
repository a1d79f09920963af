"""job=sweep: plan, train every cell in worker processes, collect, fit, report."""

from pathlib import Path

from gptjax.config import Config
from gptjax.job import Job
from gptjax.stages.sweep import run_sweep


def main(config: Config, folder: Path) -> int:
    """Run the whole journey; started again, it does what is missing."""
    return run_sweep(config, folder)


JOB = Job(main, many_runs=True, trains=True)
