"""Figure of task forecasts: scores against compute, and intervals where nothing was run."""

from pathlib import Path
from typing import Any

import numpy as np

from gptjax.report import style

COLUMNS = 3


def draw(folder: Path, scores: Any, found: Any, formats: tuple[str, ...], dpi: int) -> list[Path]:
    """Write `forecast.*`, one panel a task; a refused forecast is hollow, a guess a dashed line.

    Args:
      scores: of `gptjax.scaling.tasks.read_scores`.
      found: of `gptjax.scaling.tasks.forecast`.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    rows = -(-len(found.tasks) // COLUMNS)
    with style.drawing():
        figure = Figure(figsize=(7.0, 2.0 * rows + 0.3), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, COLUMNS, squeeze=False).ravel()
        for ax, task in zip(axes, found.tasks, strict=False):
            _panel(ax, scores, task)
        for ax in axes[len(found.tasks) :]:
            ax.set_visible(False)
        axes[0].set_ylabel("score")
        figure.supxlabel("training compute, 6ND (FLOPs)", fontsize=8)
    style.settle(figure)
    return style.save(figure, folder / "figures", "forecast", formats, dpi)


def _panel(ax: Any, scores: Any, task: Any) -> None:
    last = scores.final
    ax.plot(scores.flops[last], scores.score[task.task][last], "o", ms=3, color=style.ACCENT)
    for target in task.targets:
        flops = 6.0 * target.params * target.tokens
        ends = np.array([[target.score - target.low], [target.high - target.score]])
        fill = "none" if target.refused else style.SECOND
        ax.errorbar(
            flops, target.score, ends, fmt="s", ms=3.5, lw=0.9, color=style.SECOND, mfc=fill
        )
    if task.chance is not None:
        ax.axhline(task.chance, color=style.MUTED, lw=0.7, ls="--")
    ax.set_xscale("log")
    ax.set_title(f"{task.task}: {task.verdict}", fontsize=7.5)
