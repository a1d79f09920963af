"""A comparison of optimizers: held-out loss against tokens and against time, and a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from gptjax.report import style
from gptjax.report.config import ReportConfig

DASHES = ("-", (0, (4, 1.4)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)))
Rows = Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Variant:
    """A variant at its best learning rate.

    Attributes:
      learning_rate: the one with the lowest mean final loss.
      at_edge: whether it is the smallest or largest that was tried.
      final: final losses of its seeds, nats per token.
      tokens: where the loss was measured.
      losses: [seeds, tokens], nats per token.
      seconds: median training time of its runs.
      flops: training FLOPs of a run.
      failed: runs at any rate that did not finish.
    """

    label: str
    learning_rate: float
    at_edge: bool
    final: np.ndarray
    tokens: np.ndarray
    losses: np.ndarray
    seconds: float
    flops: float
    failed: int


def variants(rows: Rows) -> list[Variant]:
    """The variants of which a learning rate finished with every seed, in the order of `rows`."""
    found = []
    for label in dict.fromkeys(row["label"] for row in rows):
        own = [row for row in rows if row["label"] == label]
        rates = sorted({row["learning_rate"] for row in own})
        runs = {rate: [row for row in own if row["learning_rate"] == rate] for rate in rates}
        whole = [rate for rate in rates if all(row["status"] == "done" for row in runs[rate])]
        if not whole:
            continue
        best = min(whole, key=lambda rate: np.mean([row["loss"] for row in runs[rate]]))
        chosen = runs[best]
        found.append(
            Variant(
                label=label,
                learning_rate=best,
                at_edge=len(rates) > 1 and best in (rates[0], rates[-1]),
                final=np.array([row["loss"] for row in chosen]),
                tokens=np.array(chosen[0]["tokens"]),
                losses=np.array([row["losses"] for row in chosen]),
                seconds=float(np.median([row["seconds"] or math.nan for row in chosen])),
                flops=chosen[0]["flops"],
                failed=sum(row["status"] != "done" for row in own),
            )
        )
    return found


def build(folder: Path, rows: Rows, config: ReportConfig) -> list[Path]:
    """Write `figures/loss_tokens` and `figures/loss_time`; returns the paths."""
    paths = []
    for name, draw in (("loss_tokens", draw_tokens), ("loss_time", draw_time)):
        figure, ax = style.new_figure()
        with style.drawing():
            draw(ax, variants(rows))
        style.settle(figure)
        paths += style.save(figure, folder / "figures", name, config.formats, config.dpi)
    return paths


def draw_tokens(ax: Axes, shown: Sequence[Variant]) -> None:
    """Held-out loss (nats per token) against tokens: mean of the seeds, their range as a band."""
    _draw(ax, shown, [variant.tokens for variant in shown])
    ax.set_xlabel("tokens")
    style.log_axis(ax, "x", "count")


def draw_time(ax: Axes, shown: Sequence[Variant]) -> None:
    """The same against training time, compilation and evaluation left out.

    For runs that were trained side by side it is their share of the time.
    """
    places = [variant.seconds * variant.tokens / variant.tokens[-1] for variant in shown]
    _draw(ax, shown, places)
    ax.set_xlabel("training time (seconds)")
    style.log_axis(ax, "x", "count")


def _draw(ax: Axes, shown: Sequence[Variant], places: Sequence[np.ndarray]) -> None:
    colours = style.palette(len(shown))
    for i, (variant, place) in enumerate(zip(shown, places, strict=True)):
        low, high = variant.losses.min(axis=0), variant.losses.max(axis=0)
        ax.fill_between(place, low, high, color=colours[i], alpha=0.15, lw=0)
        ax.plot(
            place,
            variant.losses.mean(axis=0),
            color=colours[i],
            ls=DASHES[i % len(DASHES)],
            label=f"{variant.label}: {variant.final.mean():.3f}",
        )
    ax.set_ylabel("held-out loss (nats per token)")
    style.log_axis(ax, "y", "loss")
    if shown:
        ax.legend(title="final loss")


def table(rows: Rows) -> Table:
    """Best learning rate, final loss with the spread of seeds, time and FLOPs of each variant."""
    made = Table(title="Final held-out loss at the best rate", title_justify="left")
    names = ("variant", "learning rate", "loss", "sd of seeds", "seconds", "FLOPs", "failed runs")
    for name in names:
        made.add_column(name, justify="left" if name == "variant" else "right")
    for variant in variants(rows):
        spread = f"{variant.final.std(ddof=1):.4f}" if len(variant.final) > 1 else "–"
        made.add_row(
            variant.label,
            f"{variant.learning_rate:g}" + (" (edge)" if variant.at_edge else ""),
            f"{variant.final.mean():.4f}",
            spread,
            f"{variant.seconds:.1f}",
            f"{variant.flops:.3g}",
            str(variant.failed),
        )
    return made
