"""Page of a model's scores: a table, and a figure for each task."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.template import Section, page

ACROSS = 55
"""Letters of labels that have room below upright bars; longer ones stand left of lying bars."""


def build(folder: Path, content: dict[str, Any], formats: tuple[str, ...], dpi: int) -> None:
    """Write `figures/score_*` and report.html from the content of scores.json."""
    sections = [Section("Scores", _table(content["tasks"]))]
    for number, task in enumerate(content["tasks"]):
        said = "".join(f"<p>{escape(note)}</p>" for note in task["notes"])
        drawn = _figure(folder, f"score_{number}", task, formats, dpi)
        sections.append(Section(task["task"], drawn + said, f"score-{number}"))
    if "against" in content:
        sections.append(Section(f"Against {content['against']['model']}", _paired(content)))
    html = page(
        f"Scores of {content['model']}",
        kicker="Evaluation",
        facts=[f"{len(content['tasks'])} tasks"],
        colours=style.palette(1),
        sections=sections,
        footer="",
    )
    write_atomic(folder / "report.html", html)


def _figure(
    folder: Path, name: str, task: dict[str, Any], formats: tuple[str, ...], dpi: int
) -> str:
    """The task's figure written, and as markup; "" for a task without a number.

    A task of choices has a second panel, its reliability diagram.
    """
    if task["metrics"][task["headline"]]["value"] is None:
        return ""
    panels = [FIGURES.get(task["curve"].get("kind", ""), _bars)]
    panels += [_reliability] if task.get("calibration") else []
    with style.drawing():
        size = (style.WIDTH * (1 + len(panels)) / 2, max(2.6, 0.14 * len(task["by"])))
        figure = Figure(figsize=size, layout="constrained")
        FigureCanvasAgg(figure)
        for draw, ax in zip(panels, np.atleast_1d(figure.subplots(1, len(panels))), strict=True):
            draw(ax, task)
        figure.suptitle(task["task"], fontsize=8)
    style.settle(figure)
    kinds = [*dict.fromkeys([*formats, "svg"])]
    made = style.save(figure, folder / "figures", name, kinds, dpi)
    svg = next(path for path in made if path.suffix == ".svg").read_text(encoding="utf-8")
    return svg[svg.index("<svg") :]


def _table(tasks: list[dict[str, Any]]) -> str:
    errors = ("value", "stderr", "stderr_by_document")
    rows = [
        (task["task"], name, *(one[key] for key in errors), _guess(task, name), one["count"])
        for task in tasks
        for name, one in task["metrics"].items()
    ]
    head = ("task", "metric", "value", "error by item", "error by document", "guess", "items")
    return _html(head, rows)


def _guess(task: dict[str, Any], metric: str) -> float | None:
    """The score of a guess beside the scores that it may be compared with."""
    compared = metric.startswith("acc") or metric == task["headline"]
    return task["baselines"].get("chance") if compared else None


def _paired(content: dict[str, Any]) -> str:
    keys = ("task", "metric", "value", "low", "high", "reason")
    return _html(keys, [[one.get(k) for k in keys] for one in content["against"]["differences"]])


def _html(head: Any, rows: Any) -> str:
    def cell(value: Any) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str("–" if value is None else value)
        return f"<td>{escape(text)}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _bars(ax: Any, task: dict[str, Any]) -> None:
    """The headline by level or domain, with two standard errors, and a guess as a dashed line.

    In brackets stands the number of items.
    """
    bars = task["by"] or {"all": task["metrics"][task["headline"]]}
    labels = [f"{name} ({one['count']})" for name, one in bars.items()]
    values = [one["value"] for one in bars.values()]
    errors = [2 * (one["stderr"] or 0.0) for one in bars.values()]
    name, places = task["headline"].replace("_", " "), range(len(bars))
    upright = sum(map(len, labels)) <= ACROSS
    if upright:
        ax.bar(places, values, yerr=errors, color=style.ACCENT, width=0.6)
        ax.set_xticks(places, labels, fontsize=6)
        ax.set_ylabel(name)
    else:
        ax.barh(places, values, xerr=errors, color=style.ACCENT, height=0.6)
        ax.set_yticks(places, labels, fontsize=6)
        ax.invert_yaxis()
        ax.set_xlabel(name)
    if "chance" in task["baselines"]:
        line = ax.axhline if upright else ax.axvline
        line(task["baselines"]["chance"], color=style.MUTED, ls="--", lw=0.8)


def _reliability(ax: Any, task: dict[str, Any]) -> None:
    """Accuracy against confidence, each bin's area its number of items; the diagonal is right."""
    found = task["calibration"]
    most = max(one["count"] for one in found["bins"])
    ax.plot([0, 1], [0, 1], color=style.MUTED, ls="--", lw=0.8)
    for one in found["bins"]:
        size = 2 + 6 * (one["count"] / most) ** 0.5
        ax.plot(one["confidence"], one["accuracy"], "o", ms=size, color=style.ACCENT)
    ax.set_xlabel(f"confidence (calibration error {found['ece']:.3f})")
    ax.set_ylabel("accuracy")


def _map(ax: Any, task: dict[str, Any]) -> None:
    """Retrieval by depth (downwards) and length."""
    curve = task["curve"]
    rate = np.array(curve["rate"], float)
    ax.imshow(rate, vmin=0.0, vmax=1.0, cmap="viridis", aspect="auto")
    for (row, column), value in np.ndenumerate(rate):
        tone = "white" if value < 0.6 else "black"
        ax.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=tone)
    ax.set_xticks(range(len(curve["lengths"])), [str(n) for n in curve["lengths"]])
    ax.set_yticks(range(len(curve["depths"])), [f"{d:.0%}" for d in curve["depths"]])
    ax.grid(False)
    ax.set_xlabel("tokens")
    ax.set_ylabel("depth of the needle")


FIGURES: dict[str, Callable[[Any, dict[str, Any]], None]] = {"needle": _map}
"""Figures by the kind of a task's curve; bars for the others."""
