"""Page of a model's scores: a table, and a figure for each task."""

from collections.abc import Callable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.files import write_atomic
from gptjax.report import style
from gptjax.report.template import Section, page


def build(folder: Path, content: dict[str, Any], formats: tuple[str, ...], dpi: int) -> None:
    """Write `figures/score_*` and report.html from the content of scores.json."""
    sections = [Section("Scores", _table(content["tasks"]))]
    for number, task in enumerate(content["tasks"]):
        draw = FIGURES.get(task["curve"].get("kind", ""), _bars)
        figure, ax = style.new_figure()
        with style.drawing():
            draw(ax, task)
            ax.set_title(task["task"], fontsize=8)
        style.settle(figure)
        kind = [*dict.fromkeys([*formats, "svg"])]
        made = style.save(figure, folder / "figures", f"score_{number}", kind, dpi)
        svg = next(path for path in made if path.suffix == ".svg").read_text(encoding="utf-8")
        sections.append(Section(task["task"], svg[svg.index("<svg") :], f"score-{number}"))
    if "against" in content:
        sections.append(Section(f"Against {content['against']['model']}", _paired(content)))
    facts = [f"{len(content['tasks'])} tasks"]
    html = page(
        f"Scores of {content['model']}",
        kicker="Evaluation",
        facts=facts,
        colours=style.palette(1),
        sections=sections,
        footer="",
    )
    write_atomic(folder / "report.html", html)


def _table(tasks: list[dict[str, Any]]) -> str:
    rows = [
        (task["task"], name, one["value"], one["stderr"], one["stderr_by_document"], one["count"])
        for task in tasks
        for name, one in task["metrics"].items()
    ]
    head = ("task", "metric", "value", "error by item", "error by document", "items")
    return _html(head, rows)


def _paired(content: dict[str, Any]) -> str:
    keys = ("task", "metric", "value", "low", "high")
    return _html(keys, [[one.get(k) for k in keys] for one in content["against"]["differences"]])


def _html(head: Any, rows: Any) -> str:
    def cell(value: Any) -> str:
        text = f"{value:.4g}" if isinstance(value, float) else str("–" if value is None else value)
        return f"<td>{escape(text)}</td>"

    top = "".join(f"<th>{escape(name)}</th>" for name in head)
    body = "".join(f"<tr>{''.join(map(cell, row))}</tr>" for row in rows)
    return f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>"


def _bars(ax: Any, task: dict[str, Any]) -> None:
    """The headline by level or domain, with two standard errors, and a guess as a dashed line."""
    bars = task["by"] or {"all": task["metrics"][task["headline"]]}
    values = [one["value"] for one in bars.values()]
    errors = [2 * (one["stderr"] or 0.0) for one in bars.values()]
    ax.bar(range(len(bars)), values, yerr=errors, color=style.ACCENT, width=0.6)
    if "chance" in task["baselines"]:
        ax.axhline(task["baselines"]["chance"], color=style.MUTED, ls="--", lw=0.8)
    ax.set_xticks(range(len(bars)), list(bars), fontsize=6)
    ax.set_ylabel(task["headline"].replace("_", " "))


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
