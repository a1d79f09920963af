"""Figures of a law of mixtures: the best weights, and measured against predicted losses."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.report import style


def draw_weights(folder: Path, best: Any, formats: Sequence[str], dpi: int) -> list[Path]:
    """Write `mixture.*`: the best weight of each source with its interval, and the prior."""
    order = np.argsort(best.values)
    figure, ax = style.new_figure(height=max(1.6, 0.2 * len(order) + 0.8))
    values = best.values[order]
    low, high = (
        np.array([getattr(best.weights[i], end) for i in order]) for end in ("low", "high")
    )
    with style.drawing():
        ax.barh(range(len(order)), values, color=style.ACCENT, height=0.6, label="best")
        ax.hlines(range(len(order)), low, high, color=style.INK, lw=1.0, label="interval")
        ax.plot(best.prior[order], range(len(order)), "|", color=style.SECOND, label="prior")
        ax.set_yticks(range(len(order)), [best.sources[i] for i in order], fontsize=6)
        ax.set_xlabel("weight in the mixture")
        ax.legend(fontsize=6, loc="lower right")
    style.settle(figure)
    return style.save(figure, folder / "figures", "mixture", formats, dpi)


def draw_predicted(
    folder: Path, law: Any, measured: np.ndarray, target: str, formats: Sequence[str], dpi: int
) -> list[Path]:
    """Write `mixture_check.*`: each run's loss against that of the fits that did not see it."""
    figure, ax = style.new_figure()
    with style.drawing():
        ends = [measured.min(), measured.max()]
        ax.plot(ends, ends, color=style.MUTED, lw=0.7)
        ax.plot(law.score.predicted, measured, "o", ms=2.5, color=style.ACCENT)
        ax.set_xlabel("predicted without the run (nats per token)")
        ax.set_ylabel("measured (nats per token)")
        ax.set_title(f"{target}: rank correlation {law.score.rank:.3f}", fontsize=7)
    style.settle(figure)
    return style.save(figure, folder / "figures", "mixture_check", formats, dpi)
