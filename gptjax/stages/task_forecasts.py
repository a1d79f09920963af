"""A forecast of scores written, drawn and printed."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptjax.config import Config
from gptjax.files import write_json
from gptjax.scaling.tasks import Forecast, Scores
from gptjax.scaling.tasks.forecast import describe


def show(config: Config, folder: Path, scores: Scores, found: Forecast) -> None:
    """Write forecast.json and its figure, print the table."""
    from gptjax.report import task_forecasts  # matplotlib is slow to import

    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "forecast.json", describe(found))
    task_forecasts.draw(folder, scores, found, config.report.formats, config.report.dpi)
    _print(found, folder)


def _print(found: Forecast, folder: Path) -> None:
    table = Table(title=f"Forecasts from {found.runs} runs, {found.confidence:.0%} intervals")
    for name in ("task", "verdict", "params", "tokens", "score", "loss of right answers"):
        table.add_column(name)
    for task in found.tasks:
        for target in task.targets:
            refused = f"refused: {target.refused}" if target.refused else ""
            table.add_row(
                f"{task.task} ({task.shape})",
                task.verdict,
                f"{target.params:.3g}",
                f"{target.tokens:.3g}",
                refused or _span(target.score, target.low, target.high),
                _span(target.task_loss, target.task_loss_low, target.task_loss_high),
            )
    console = Console(width=140)
    console.print(table, markup=False)
    for task in found.tasks:
        laws = ", ".join(
            f"{name} {task.rollouts[name]:.3f} (weight {weight:.0%})"
            for name, weight in task.weights.items()
        )
        console.print(f"{task.task}: {task.verdict}: {task.why}. Error in rollouts: {laws}")
    console.print(f"{folder / 'forecast.json'}", highlight=False)


def _span(value: Any, low: Any, high: Any) -> str:
    return "–" if value != value else f"{value:.3f} [{low:.3f}, {high:.3f}]"
