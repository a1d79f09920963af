"""Figure and page of transfer: losses from scratch and after pre-training, and the law of D_T."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.figure_block import figure_block
from gptjax.report.numbers import count_text
from gptjax.report.tables import table
from gptjax.report.template import Section, markup, page

Rows = Sequence[Mapping[str, Any]]


def build(
    folder: Path,
    rows: Rows,
    points: Rows,
    law: Any,
    content: Mapping[str, Any],
    formats: Sequence[str],
    dpi: int,
) -> Path:
    """Write `figures/transfer.*` and report.html, and return the page's path."""
    figure = draw(rows, points, law)
    saved = style.save(figure, folder / "figures", "transfer", formats, dpi)
    colours = style.palette(len({row["params"] for row in rows}))
    claim = "Pre-training is worth data, most where there is little"
    shown = figure_block(
        figure,
        "transfer",
        claim,
        colours,
        caption="Left: held-out loss at the early stop, from scratch (lines) and pre-trained "
        "(points). N counts all parameters, embeddings included. Right: tokens that pre-training "
        "is worth, and the law with the interval of its mean.",
        saved=saved,
    )
    html = page(
        "Effective data transferred",
        kicker="gptjax scaling report",
        facts=[f"{len(rows)} runs", f"{len(points)} points of the law"],
        colours=colours,
        sections=[
            Section("Answer", "".join(f"<p>{markup(line)}</p>" for line in content["notes"])),
            Section("Figure", f'<div class="figures">{shown}</div>'),
            Section("Points", _points(points)),
        ],
        footer="Every number on this page is in <code>laws.json</code>, <code>runs.csv</code> or "
        "<code>transfer.csv</code>.",
    )
    path = folder / "report.html"
    write_atomic(path, html.encode())
    return path


def draw(rows: Rows, points: Rows, law: Any) -> Figure:
    """Losses by tokens (left) and effective data transferred (right), colours by size."""
    sizes = sorted({row["params"] for row in rows})
    colours = style.palette(len(sizes))
    with style.drawing():
        figure = Figure(figsize=(6.6, 3.0), layout="constrained")
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        for i, params in enumerate(sizes):
            mine = [row for row in rows if row["params"] == params]
            for kind, marker in ((0, "o-"), (1, "s")):
                some = [row for row in mine if row["pretrained"] == kind]
                x, y = ([row[name] for row in some] for name in ("tokens", "loss"))
                label = f"N = {count_text(params)}" if kind == 0 else None
                left.plot(x, y, marker, ms=3, lw=0.9, color=colours[i], label=label)
            _draw_law(right, [row for row in points if row["params"] == params], law, colours[i])
        for ax in (left, right):
            ax.set_xlabel("tokens of prose D_F")
            style.log_axis(ax, "x", "count")
        style.log_axis(right, "y", "count")
        left.set_ylabel("held-out loss (nats per token)")
        right.set_ylabel("effective data transferred D_T")
        left.legend(fontsize=6)
    style.settle(figure)
    return figure


def _draw_law(ax: Any, points: Rows, law: Any, colour: str) -> None:
    if not points:
        return
    tokens = np.array([row["tokens"] for row in points], float)
    ax.plot(tokens, [row["transferred"] for row in points], "s", ms=3, color=colour)
    grid = np.geomspace(tokens.min(), tokens.max() * 1.01, 20)
    value, low, high = law.predict(np.full(20, points[0]["params"]), grid, noise=False)
    ax.plot(grid, value, color=colour, lw=0.9)
    ax.fill_between(grid, low, high, color=colour, alpha=0.15, lw=0)


def _points(points: Rows) -> str:
    rows = [
        [
            f"{row['params']:,}",
            f"{row['tokens']:,}",
            f"{row['loss']:.4f}",
            f"{row['effective']:,.0f}",
            f"{row['transferred']:,.0f}",
            f"{row['effective'] / row['tokens']:.2f}",
        ]
        for row in points
    ]
    return table("Tuned runs", ["N", "D_F", "loss", "D_E", "D_T", "D_E / D_F"], rows)
