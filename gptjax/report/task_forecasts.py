"""Figure of task forecasts: scores against compute, and intervals where nothing was run."""

from pathlib import Path
from typing import Any

import numpy as np

from gptjax.report import style

WIDTHS = (style.WIDTH, 5.6, 7.0)
"""Inches of a figure with one, two or three columns of panels."""


def draw(
    folder: Path,
    scores: Any,
    found: Any,
    heldout: np.ndarray,
    formats: tuple[str, ...],
    dpi: int,
) -> list[Path]:
    """Write `forecast.*`, one panel a task; a refused forecast is hollow, a guess a dashed line.

    Args:
      scores: of `gptjax.scaling.tasks.read_scores`.
      found: of `gptjax.scaling.tasks.forecast`.
      heldout: rows that were not fitted, drawn as rings.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = min(len(WIDTHS), len(found.tasks))
    rows = -(-len(found.tasks) // columns)
    with style.drawing():
        figure = Figure(figsize=(WIDTHS[columns - 1], 2.0 * rows + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, squeeze=False).ravel()
        for ax, task in zip(axes, found.tasks, strict=False):
            _panel(ax, scores, heldout, task)
        axes[0].legend(fontsize=6)
        for ax in axes[len(found.tasks) :]:
            ax.set_visible(False)
        axes[0].set_ylabel("score")
        figure.supxlabel("training compute, 6ND (FLOPs)", fontsize=8)
    style.settle(figure)
    return style.save(figure, folder / "figures", "forecast", formats, dpi)


def _panel(ax: Any, scores: Any, heldout: np.ndarray, task: Any) -> None:
    last = scores.final
    for keep, fill, label in (
        (last & ~heldout, style.ACCENT, "fitted"),
        (last & heldout, "none", "held out"),
    ):
        if keep.any():
            x, y = scores.flops[keep], scores.score[task.task][keep]
            ax.plot(x, y, "o", ms=3, color=style.ACCENT, mfc=fill, label=label)
    for number, target in enumerate(task.targets):
        flops = 6.0 * target.params * target.tokens
        ends = np.array([[target.score - target.low], [target.high - target.score]])
        fill = "none" if target.refused else style.SECOND
        label = "_" if number else "forecast"
        marks = {"fmt": "s", "ms": 3.5, "lw": 0.9, "color": style.SECOND, "mfc": fill}
        ax.errorbar(flops, target.score, ends, **marks, label=label, zorder=1)
    if task.chance is not None:
        ax.axhline(task.chance, color=style.MUTED, lw=0.7, ls="--")
    ax.set_xscale("log")
    ax.set_title(f"{task.task}: {task.verdict}", fontsize=7.5)
