"""Figures and page of a law of mixtures: the best weights, measured against predicted losses."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.config import ReportConfig
from gptjax.report.figure_block import figure_block
from gptjax.report.tables import table
from gptjax.report.template import Section, markup, page

Draw = tuple[str, float, Any]
"""A figure's name, its height in inches, and what draws it on axes."""


def weights_figure(best: Any) -> Draw:
    """`mixture.*`: the best weight of each source with its interval, and the prior."""
    order = np.argsort(best.values)

    def draw(ax: Axes) -> None:
        low, high = (
            np.array([getattr(best.weights[i], end) for i in order]) for end in ("low", "high")
        )
        ax.barh(range(len(order)), best.values[order], color=style.ACCENT, height=0.6, label="best")
        ax.hlines(range(len(order)), low, high, color=style.INK, lw=1.0, label="interval")
        ax.plot(best.prior[order], range(len(order)), "|", color=style.SECOND, label="prior")
        ax.set_yticks(range(len(order)), [best.sources[i] for i in order], fontsize=6)
        ax.set_xlabel("weight in the mixture")
        ax.legend(fontsize=6, loc="lower right")

    return "mixture", max(1.6, 0.2 * len(order) + 0.8), draw


def predicted_figure(law: Any, measured: np.ndarray, target: str) -> Draw:
    """`mixture_check.*`: each run's loss against that of the fits that did not see it."""

    def draw(ax: Axes) -> None:
        ends = [measured.min(), measured.max()]
        ax.plot(ends, ends, color=style.MUTED, lw=0.7)
        ax.plot(law.score.predicted, measured, "o", ms=2.5, color=style.ACCENT)
        ax.set_xlabel("predicted without the run (nats per token)")
        ax.set_ylabel("measured (nats per token)")
        ax.set_title(f"{target}: rank correlation {law.score.rank:.3f}", fontsize=7)

    return "mixture_check", style.HEIGHT, draw


def heldout_figure(check: Mapping[str, Any]) -> Draw:
    """`mixture_heldout.*`: the runs of the largest size against what the law says of them."""

    def draw(ax: Axes) -> None:
        measured = np.array([row["measured"] for row in check["rows"]])
        predicted = np.array([row["predicted"] for row in check["rows"]])
        both = np.r_[measured, predicted]
        ax.plot([both.min(), both.max()], [both.min(), both.max()], color=style.MUTED, lw=0.7)
        ax.plot(predicted, measured, "o", ms=2.5, color=style.INK, label="drawn")
        for name, mark in (("prior", "s"), ("best", "*")):
            if name in check:
                i = int(np.argmin(np.abs(measured - check[name])))
                label = "best mixture" if name == "best" else name
                ax.plot(predicted[i], measured[i], mark, ms=5, color=style.ACCENT, label=label)
        ax.set_xlabel("predicted by smaller models (nats per token)")
        ax.set_ylabel("measured (nats per token)")
        ax.legend(fontsize=6)

    return "mixture_heldout", style.HEIGHT, draw


def draw(folder: Path, figures: Sequence[Draw], config: ReportConfig) -> list[Any]:
    """Draw and save figures under `folder/figures`."""
    drawn = []
    for name, height, paint in figures:
        figure, ax = style.new_figure(height=height)
        with style.drawing():
            paint(ax)
        style.settle(figure)
        style.save(figure, folder / "figures", name, config.formats, config.dpi)
        drawn.append(figure)
    return drawn


def build(
    folder: Path,
    found: Mapping[str, Any],
    figures: Sequence[Draw],
    config: ReportConfig,
    *,
    title: str,
    facts: Mapping[str, str],
) -> Path:
    """Write `folder/report.html` from the content of mixture.json, and return its path."""
    colours = style.palette(1)
    drawn = draw(folder, figures, config)
    shown = [
        figure_block(figure, name, CLAIMS[name], colours)
        for (name, _, _), figure in zip(figures, drawn, strict=True)
    ]
    words = f"{found['sentence']} {found['check_sentence']}"
    content = page(
        config.title or title,
        kicker="gptjax report on mixtures",
        facts=[f"{value} {name}" for name, value in facts.items()],
        colours=colours,
        sections=[
            Section("", f'<p class="lead">{markup(words)}</p>', "answer"),
            Section("Figures", f'<div class="figures">{"".join(shown)}</div>'),
            Section("The mixture", _weights(found)),
            Section("The laws", _laws(found)),
            Section("At the largest size", _check(found)),
        ],
        footer="Every number on this page is in <code>mixture.json</code>, every run in "
        "<code>runs.csv</code>.",
    )
    path = folder / "report.html"
    write_atomic(path, content.encode("utf-8", "replace"))
    return path


CLAIMS = {
    "mixture": "The best weights beside the prior",
    "mixture_check": "Runs against fits that did not see them",
    "mixture_heldout": "The largest size, which the law did not see",
}


def _weights(found: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(name),
            f"{one['value']:.4f} [{one['low']:.4f}, {one['high']:.4f}]",
            f"{one['prior']:.4f}",
            f"{one['worth']['value']:.4f} [{one['worth']['low']:.4f}, {one['worth']['high']:.4f}]",
            "useless" if name in found["useless"] else "",
        ]
        for name, one in found["weights"].items()
    ]
    return table(
        "", ["source", "best weight", "prior", "nats if left out", ""], rows, text_columns=(0, 4)
    )


def _laws(found: Mapping[str, Any]) -> str:
    rows = [
        [
            escape(target),
            escape(law["equation"]),
            f"{law['cross_validation'][law['form']]['error']:.4f}",
            f"{law['cross_validation'][law['form']]['spearman']:.3f}",
        ]
        for target, law in found["laws"].items()
    ]
    return table(
        "",
        ["loss of", "form", "error in cross-validation, nats", "rank"],
        rows,
        text_columns=(0, 1),
    )


def _check(found: Mapping[str, Any]) -> str:
    names = list(found["weights"])
    rows = [
        [
            *(f"{weight:.3f}" for weight in row["weights"]),
            f"{row['measured']:.4f}",
            f"{row['predicted']:.4f}",
        ]
        for row in found["check"]["rows"]
    ]
    return table("", [*map(escape, names), "measured", "predicted"], rows)
