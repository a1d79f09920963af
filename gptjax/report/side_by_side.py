"""Laws beside one another: two figures, a table and a page, drawn from comparison.json alone."""

import math
from collections.abc import Callable, Mapping
from html import escape
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from rich.table import Table

from gptjax.files import write_atomic
from gptjax.report import style, tables
from gptjax.report.config import ReportConfig
from gptjax.report.figure_block import figure_block
from gptjax.report.numbers import count_text, duration_text, fixed_text, interval_text, power_text
from gptjax.report.template import Section, markup, page
from gptjax.report.view import Json, Number, number, real

DASHES = ("-", (0, (4, 1.4)), (0, (1, 1.2)), (0, (5, 1.2, 1, 1.2)), (0, (8, 1.5)))
MARKERS = "osD^v"
FARTHEST = 100.0
"""A multiplier was looked for between this and its inverse."""


def build(
    folder: Path, content: Json, config: ReportConfig, *, title: str, facts: Mapping[str, str]
) -> Path:
    """Write `folder/report.html` and `folder/figures/`; returns the page's path.

    Args:
      content: what comparison.json holds.
      facts: texts by name for the line under the title.
    """
    colours = style.palette(len(content["laws"]))
    drawn = [
        _draw(folder, content, config, name, draw, claim, caption)
        for name, draw, claim, caption in (
            ("frontiers", draw_frontiers, lead(content), _FRONTIER_CAPTION),
            ("multipliers", draw_multipliers, _multiplier_claim(content), _MULTIPLIER_CAPTION),
        )
    ]
    warnings = [
        f"{label}: {text}" for label, law in content["laws"].items() for text in law["warnings"]
    ]
    content_page = page(
        config.title or title,
        kicker="gptjax comparison of sweeps",
        facts=[f"{value} {name}" for name, value in facts.items()],
        colours=colours,
        sections=[
            Section("", f'<p class="lead">{markup(lead(content))}</p>', "answer"),
            Section("Figures", f'<div class="figures">{"".join(drawn)}</div>'),
            Section("At equal FLOPs", _standings_html(content)),
            Section("The laws", _laws_html(content)),
            Section("Before you use these numbers", _warnings_html(warnings)),
        ],
        footer="Every number on this page is in <code>comparison.json</code>; each sweep has "
        "its own report.",
    )
    path = folder / "report.html"
    write_atomic(path, content_page.encode())
    return path


def lead(content: Json) -> str:
    """Which law is lowest at the largest budget, and what that is worth."""
    at = content["budgets"][-1]
    found = standings_at(content, at)
    best = min(found, key=lambda row: row["loss"]["value"])
    loss = number(best, "loss")
    words = (
        f"At {power_text(at)} FLOPs **{best['label']}** reaches the lowest loss, "
        f"{_with_interval(loss, fixed_text)} nats per token"
    )
    if best["label"] == content["reference"]:
        return words + ", and is the reference of the others."
    times = _with_interval(number(best, "multiplier"), _multiplier)
    clear = "" if _is_clear(number(best, "difference")) else "; the difference is not clear"
    return words + f"; {content['reference']} needs {times} times the FLOPs for it{clear}."


def standings_at(content: Json, flops: float) -> list[Json]:
    """The standings of every law at a budget."""
    return [row for row in content["standings"] if math.isclose(row["flops"], flops)]


def draw_frontiers(ax: Axes, content: Json) -> None:
    """Loss (nats per token) of the best size against FLOPs: laws with bands, runs as points."""
    colours = style.palette(len(content["laws"]))
    for i, (label, law) in enumerate(content["laws"].items()):
        line = {name: np.array([real(x) for x in law["line"][name]]) for name in law["line"]}
        band = line["flops"], line["low"], line["high"]
        ax.fill_between(*band, color=colours[i], alpha=0.13, lw=0)
        inside = line["flops"] <= content["budgets"][-1] * 1.0001
        ax.plot(line["flops"], line["loss"], color=colours[i], ls=DASHES[i % 5], lw=0.7, alpha=0.6)
        ax.plot(
            line["flops"][inside],
            line["loss"][inside],
            color=colours[i],
            ls=DASHES[i % 5],
            label=label,
        )
        ax.plot(
            [row["budget"] for row in law["best"]],
            [row["loss"] for row in law["best"]],
            MARKERS[i % 5],
            color=colours[i],
            ms=4,
        )
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel("loss at the best size (nats per token)")
    style.log_axis(ax, "x")
    style.log_axis(ax, "y", "loss")
    ax.legend()


def draw_multipliers(ax: Axes, content: Json) -> None:
    """FLOPs that the reference needs for the same loss over the law's own, with intervals."""
    colours = style.palette(len(content["laws"]))
    labels = list(content["laws"])
    for i, label in enumerate(labels):
        rows = [row for row in content["standings"] if row["label"] == label]
        value, low, high = (
            np.array([real(row["multiplier"][end]) for row in rows])
            for end in ("value", "low", "high")
        )
        shift = 1.02 ** (i - len(labels) / 2)
        flops = np.array([row["flops"] for row in rows]) * shift
        inside = flops <= content["budgets"][-1] * shift * 1.0001
        ax.vlines(flops[inside], low[inside], high[inside], color=colours[i], lw=1)
        ax.plot(
            flops[inside],
            value[inside],
            color=colours[i],
            ls=DASHES[i % 5],
            marker=MARKERS[i % 5],
            ms=4,
            label=label,
        )
    ax.set_xlabel("training compute C (FLOPs)")
    ax.set_ylabel(f"FLOPs of {content['reference']} for the same loss, over C")
    style.log_axis(ax, "x")
    ax.set_yscale("log")
    bottom, top = ax.get_ylim()
    ax.set_ylim(top=top * (top / bottom) ** 0.3)  # room for the legend
    style.log_axis(ax, "y", "count")
    ax.legend(ncols=2, loc="upper right")


def table(content: Json) -> Table:
    """The standings at every budget, for a terminal."""
    level = f"{content['confidence']:.0%}"
    made = Table(title=f"At equal FLOPs, with {level} intervals", title_justify="left")
    for name in _HEAD:
        made.add_column(name, justify="left" if name == "sweep" else "right")
    for row in content["standings"]:
        made.add_row(*_cells(content, row, _plain), end_section=_ends(content, row))
    return made


_HEAD = (
    "FLOPs",
    "sweep",
    "loss, nats per token",
    "minus reference",
    "compute multiplier",
    "slope of ln L in ln C",
    "minus reference",
)
_KEYS = ("loss", "difference", "multiplier", "slope", "slope_difference")


def _ends(content: Json, row: Json) -> bool:
    return row["label"] == list(content["laws"])[-1]


def _cells(content: Json, row: Json, text: Callable[[Number, str], str]) -> list[str]:
    beyond = " (extrapolated)" if row["flops"] > content["budgets"][-1] else ""
    is_reference = row["label"] == content["reference"]
    cells = [power_text(row["flops"]) + beyond, row["label"]]
    for key in _KEYS:
        relative = key in ("difference", "multiplier", "slope_difference")
        cells.append("–" if relative and is_reference else text(number(row, key), key))
    return cells


def _text(key: str) -> Callable[[float], str]:
    if key in ("difference", "slope_difference"):
        return lambda value: f"{value:+.4f}".replace("-", "−")
    return _multiplier if key == "multiplier" else fixed_text


def _multiplier(value: float) -> str:
    if value >= 0.999 * FARTHEST:
        return f"≥ {FARTHEST:g}"
    return f"≤ {1 / FARTHEST:g}" if value <= 1.001 / FARTHEST else _three(value)


def _three(value: float) -> str:
    return fixed_text(value, 3)


def _plain(value: Number, key: str) -> str:
    return _with_interval(value, _text(key))


def _with_interval(value: Number, text: Callable[[float], str]) -> str:
    bounds = interval_text(value.low, value.high, text)
    return f"{text(value.value)} {bounds}".strip()


def _is_clear(difference: Number) -> bool:
    """Whether the interval leaves out zero."""
    return difference.low * difference.high > 0


def _multiplier_claim(content: Json) -> str:
    at = content["budgets"][-1]
    rows = [row for row in standings_at(content, at) if row["label"] != content["reference"]]
    said = [
        f"{row['label']} {_multiplier(number(row, 'multiplier').value)}"
        + ("" if _is_clear(number(row, "difference")) else " (not clear)")
        for row in rows
    ]
    return f"Compute multipliers over {content['reference']}: {', '.join(said)}"


_FRONTIER_CAPTION = (
    "Points: the size with the lowest mean loss over seeds at each budget. Lines: each law's loss "
    "at its best size, thin where extrapolated; bands: intervals from resampled runs."
)
_MULTIPLIER_CAPTION = (
    "Above 1 the architecture needs fewer FLOPs than the reference for the same loss. Bars: "
    "intervals from resamples of both laws."
)


def _draw(
    folder: Path,
    content: Json,
    config: ReportConfig,
    name: str,
    draw: Callable[[Axes, Json], None],
    claim: str,
    caption: str,
) -> str:
    with style.drawing():
        figure, ax = style.new_figure()
        draw(ax, content)
        style.settle(figure)
    style.save(figure, folder / "figures", name, config.formats, config.dpi)
    colours = style.palette(len(content["laws"]))
    return figure_block(figure, name, claim, colours, caption=caption)


def _standings_html(content: Json) -> str:
    rows = [
        _cells(content, row, lambda value, key: tables.interval_html(value, _text(key)))
        for row in content["standings"]
    ]
    level = f"{content['confidence']:.0%}"
    note = f"{level} intervals. A multiplier is looked for from 1/{FARTHEST:g} to {FARTHEST:g}."
    return tables.table("", _HEAD, rows, note=note, text_columns=(1,))


def _laws_html(content: Json) -> str:
    rows = []
    for label, law in content["laws"].items():
        failed = f", {law['failed']} left out" if law["failed"] else ""
        sizes = [count_text(real(row["params"])) for row in law["best"]]
        rows.append(
            (
                f'<a href="{escape(law["report"])}">{escape(label)}</a>',
                escape(law["settings"]),
                f"{law['runs']}{failed}",
                ", ".join(sizes),
                tables.interval_html(number(law["params"], "E")),
                tables.interval_html(number(law["params"], "a")),
                duration_text(law["seconds"]),
            )
        )
    head = ("sweep", "settings", "runs", "best sizes", "E", "a of N_opt ∝ C^a", "worker time")
    return tables.table("", head, rows, text_columns=(1,))


def _warnings_html(warnings: list[str]) -> str:
    items = "".join(f"<li>{escape(text)}</li>" for text in warnings)
    return f'<ul class="plain">{items}</ul>' if items else ""
