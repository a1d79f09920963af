"""job=task_ladder: a sweep whose cells are scored on tasks, and its largest size forecast first."""

from pathlib import Path

from gptjax import scaling
from gptjax.config import Config
from gptjax.engines import task_scores
from gptjax.errors import UserError
from gptjax.job import Job
from gptjax.scaling.tasks import forecast, read_scores
from gptjax.scaling.tasks.forecast import SIZES
from gptjax.stages import task_forecasts
from gptjax.stages.sweep import run_sweep


def check(config: Config) -> None:
    """Refuse a ladder without tasks or with too few sizes, and unknown tasks."""
    if not config.sweep.tasks:
        raise UserError(
            "sweep.tasks=() gives job=task_ladder nothing to forecast; give names of tasks"
        )
    sizes = len(set(config.sweep.widths))
    if config.sweep.plan == "grid" and sizes < SIZES + 2:
        raise UserError(
            f"sweep.widths={config.sweep.widths} has {sizes} sizes, and the largest is forecast "
            f"from {SIZES + 1} others; give {SIZES + 2} or more"
        )
    task_scores.check(config)


def main(config: Config, folder: Path) -> int:
    """Run the sweep, forecast its largest size from the others, and say what was inside."""
    status = run_sweep(config, folder)
    if status != 0:
        return status
    every = read_scores(scaling.Table.read(folder / "runs.csv"))
    largest = every.params.max()
    large = every.params > largest * (1 - 1e-9)
    targets = list(zip(every.params[large], every.tokens[large], strict=True))
    task_forecasts.show(config, folder, every, forecast(every.take(~large), targets), large)
    return 0


JOB = Job(main, check=check, many_runs=True, trains=True)
