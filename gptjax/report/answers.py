"""Figures of test-time compute: questions solved, against samples and the cost of answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.report import style


def draw(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    law: Any,
    formats: tuple[str, ...],
    dpi: int,
) -> list[Path]:
    """Write `samples.*` and `answer_cost.*`.

    Args:
      rows: params, samples, and the shares `one` and `majority` with their intervals.
      law: `coverage(params, samples)` of `one`; None draws no lines of it.
    """
    written = []
    for name, power, label in (
        ("samples", 0.0, "samples k of each question"),
        ("answer_cost", 1.0, "cost of the answers, N k"),
    ):
        figure, ax = style.new_figure()
        sizes = sorted({row["params"] for row in rows})
        colours = style.palette(len(sizes))
        with style.drawing():
            for i, size in enumerate(sizes):
                mine = [row for row in rows if row["params"] == size]
                _lines(ax, mine, size**power, colours[i], law)
            ax.set_xscale("log")
            ax.set_xlabel(label)
            ax.set_ylabel("share of questions that are right")
            ax.set_ylim(0.0, 1.0)
            ax.set_title("Points: one of k is right; lines: its law; dotted: majority", fontsize=7)
            ax.legend(fontsize=6)
        style.settle(figure)
        written += style.save(figure, folder / "figures", name, formats, dpi)
    return written


def _lines(ax: Any, rows: Sequence[Mapping[str, Any]], scale: float, colour: Any, law: Any) -> None:
    samples, size = np.array([row["samples"] for row in rows]), rows[0]["params"]
    x = samples * scale
    shares = np.array([row["one"] for row in rows])
    bars = np.abs(np.array([row["one_interval"] for row in rows]).T - shares)
    ax.errorbar(x, shares, bars, fmt="o", ms=3, lw=0.7, color=colour, label=f"N = {size:,}")
    if law is not None:
        ax.plot(x, law.coverage(size, samples), lw=0.9, color=colour)
    dotted = np.array([row["majority"] for row in rows])
    bounds = np.array([row["majority_interval"] for row in rows]).T
    ax.plot(x, dotted, ":", lw=1.1, color=colour)
    ax.fill_between(x, *bounds, color=colour, alpha=0.1, lw=0)
