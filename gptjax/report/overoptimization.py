"""Figure and page of over-optimisation: gold and proxy reward by distance from the first policy."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.figure_block import figure_block
from gptjax.report.tables import table
from gptjax.report.template import Section, markup, page

TITLES = {"best_of_n": "best of n", "rl": "reinforcement learning"}


def build(
    folder: Path,
    rows: Sequence[Mapping[str, Any]],
    curves: Sequence[Any],
    content: Mapping[str, Any],
    formats: Sequence[str],
    dpi: int,
) -> Path:
    """Write `figures/overoptimization.*` and report.html, and return the page's path."""
    figure = draw(rows, curves)
    saved = style.save(figure, folder / "figures", "overoptimization", formats, dpi)
    colours = style.palette(len({one.pairs for one in curves}))
    claim = "What is optimised rises, and what was wanted falls"
    shown = figure_block(
        figure,
        "overoptimization",
        claim,
        colours,
        caption="Points: every best of n, every round of a policy. Lines: the laws, with the "
        "interval of their mean. Above: gold reward over that of the first policy; below: the "
        "reward model's, in its own units.",
        saved=saved,
    )
    html = page(
        "Over-optimisation of reward models",
        kicker="gptjax scaling report",
        facts=[f"{len(curves)} laws", f"{len(rows)} points"],
        colours=colours,
        sections=[
            Section("Answer", "".join(f"<p>{markup(line)}</p>" for line in content["notes"])),
            Section("Figure", f'<div class="figures">{shown}</div>'),
            Section("Laws", _laws(curves) + _slopes(content)),
        ],
        footer="Every number on this page is in <code>laws.json</code> or <code>points.csv</code>.",
    )
    path = folder / "report.html"
    write_atomic(path, html.encode())
    return path


def draw(rows: Sequence[Mapping[str, Any]], curves: Sequence[Any]) -> Figure:
    """Gold (above) and proxy (below) of each method; colours from few preferences to many."""
    amounts = sorted({one.pairs for one in curves})
    colours = style.palette(len(amounts))
    with style.drawing():
        figure = Figure(figsize=(6.6, 4.6), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(2, len(TITLES), sharex="col", height_ratios=(3, 2))
        for column, (method, title) in enumerate(TITLES.items()):
            for one in (one for one in curves if one.method == method):
                mine = [r for r in rows if (r["method"], r["pairs"]) == (method, one.pairs)]
                _draw_one(axes[:, column], one, mine, colours[amounts.index(one.pairs)])
            axes[0, column].set_title(title, fontsize=8)
            axes[1, column].set_xlabel("distance d = √KL (√nats)")
        axes[0, 0].set_ylabel("gold reward gained")
        axes[1, 0].set_ylabel("proxy reward gained")
        axes[0, 1].legend(title="preferences", fontsize=6, title_fontsize=6)
    style.settle(figure)
    return figure


def _draw_one(axes: Any, one: Any, rows: Sequence[Mapping[str, Any]], colour: str) -> None:
    d = np.sqrt([max(row["kl"], 0.0) for row in rows])
    for ax, name in zip(axes, ("gold", "proxy"), strict=True):
        ax.plot(d, [row[name] for row in rows], "o", ms=2, color=colour, alpha=0.5)
    grid = np.linspace(0.02, one.farthest, 80)
    value, low, high = one.fit.predict(distance=grid, noise=False)
    axes[0].plot(grid, value, color=colour, label=f"{one.pairs:,}")
    axes[0].fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)


def _laws(curves: Sequence[Any]) -> str:
    rows = [
        [
            TITLES[one.method],
            f"{one.pairs:,}",
            *(_interval(one.fit.params[name]) for name in ("alpha", "beta")),
            _interval(one.peak),
            _interval(one.gain),
            f"{one.farthest:.2f}",
            f"{one.fall:.3f}",
        ]
        for one in curves
    ]
    head = ["", "preferences", "α", "β", "d of the peak", "gain there", "last d", "lost there"]
    return table("R = d (α − β d) and R = d (α − β ln d)", head, rows, text_columns=(0,))


def _slopes(content: Mapping[str, Any]) -> str:
    rows = [
        [TITLES[method], *(_said(one[name]) for name in ("alpha", "beta"))]
        for method, one in content["data"]["slopes"].items()
    ]
    return table("Slopes on ln(preferences)", ["", "α", "β"], rows, text_columns=(0,))


def _interval(one: Any) -> str:
    return _said(one.to_json())


def _said(one: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        usable = value is not None and np.isfinite(value) and abs(value) < 1e6
        return f"{value:.3g}" if usable else "–"

    return f"{short(one['value'])} [{short(one['low'])}, {short(one['high'])}]"
