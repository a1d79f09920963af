"""A forecast of scores written, drawn and printed, beside what was measured where it was."""

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from gptjax.config import Config
from gptjax.files import write_json
from gptjax.scaling.tasks import Forecast, Scores
from gptjax.scaling.tasks.forecast import Target, describe

NEAR = 0.01
"""Relative difference of sizes and of tokens up to which a run is the one that was forecast."""


def show(
    config: Config, folder: Path, scores: Scores, found: Forecast, heldout: np.ndarray
) -> None:
    """Write forecast.json and its figure, print the table.

    Args:
      scores: all rows of the table.
      heldout: the rows that were not fitted.
    """
    from gptjax.report import task_forecasts  # matplotlib is slow to import

    folder.mkdir(parents=True, exist_ok=True)
    rows = measured(scores.take(heldout & scores.final), found)
    write_json(folder / "forecast.json", {**describe(found), "measured": rows})
    task_forecasts.draw(folder, scores, found, heldout, config.report.formats, config.report.dpi)
    _print(found, folder)
    if rows:
        said = [row for row in rows if not row["refused"]]
        inside = sum(row["inside"] for row in said)
        refused = len(rows) - len(said)
        print(f"held out: {inside} of {len(said)} measured scores inside, {refused} refused")


def measured(heldout: Scores, found: Forecast) -> list[dict[str, Any]]:
    """Each forecast beside the held-out runs of its size and tokens."""
    return [
        {
            "task": task.task,
            "params": float(target.params),
            "tokens": float(target.tokens),
            "measured": float(score),
            "inside": bool(target.low <= score <= target.high),
            "refused": bool(target.refused),
        }
        for task in found.tasks
        for target in task.targets
        for score in heldout.score[task.task][_same(heldout, target)]
        if np.isfinite(score)
    ]


def _same(runs: Scores, target: Target) -> np.ndarray:
    pairs = ((runs.params, target.params), (runs.tokens, target.tokens))
    return np.all([np.isclose(have, asked, rtol=NEAR) for have, asked in pairs], axis=0)


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
