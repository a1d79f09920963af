"""The report: one self-contained page, rebuilt from records and laws alone.

Nothing here trains, fits or asks the clock: the same tables and laws give the same bytes.
"""

import math
import re
import webbrowser
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from gptjax.report import style, svg, tables, words
from gptjax.report.config import ReportConfig
from gptjax.report.numbers import count_text, fixed_text, interval_text, percent_text
from gptjax.report.plots import Plot, choose_plots
from gptjax.report.view import (
    Json,
    Scene,
    bounded,
    headline,
    holdout_error,
    scene,
)

Columns = Mapping[str, Sequence[Any]]


def build(
    workdir: Path,
    runs_table: Any,
    curves_table: Any,
    laws: Json,
    config: ReportConfig,
    *,
    title: str = "",
    facts: Json | None = None,
) -> Path:
    """Write `workdir/report.html` and `workdir/figures/`, and return the page's path.

    Args:
      runs_table: the columns of `runs.csv`, as a mapping or a `scaling.Table`; None or empty: the
        runs that `laws` lists are shown.
      curves_table: the columns of `curves.csv` (cell, flops, loss), or None.
      laws: the content of `laws.json`, as `gptjax.scaling` writes it; sections may be missing.
      title: what was swept; `config.title` overrides it.
      facts: texts to show under the title, `seconds` in all, and `timing`: rows
        with the name of a bundle, its number of cells and its worker seconds by phase.

    The page and each figure appear whole or not at all.
    """
    runs, curves = columns_of(runs_table), columns_of(curves_table)
    shown = scene(laws, runs)
    plots = choose_plots(laws, shown, curves, config.curve_points)
    drawn = [_draw(plot, shown, workdir, config) for plot in plots]
    heading = config.title or title or "Scaling report"
    page = _page(heading, laws, shown, runs, drawn, facts or {})
    path = Path(workdir) / "report.html"
    style.write_whole(path, page.encode())
    if config.open:
        webbrowser.open(path.resolve().as_uri())
    return path


def columns_of(table: Any) -> Columns:
    """The columns of a mapping or of anything that has `columns`; empty for None."""
    if table is None:
        return {}
    return table if isinstance(table, Mapping) else table.columns


def _draw(plot: Plot, shown: Scene, workdir: Path, config: ReportConfig) -> str:
    """Draw one figure, save its files, and give its part of the page."""
    with style.drawing():
        figure, ax = style.new_figure()
        plot.draw(ax)
        style.settle(figure)
    saved = style.save(figure, Path(workdir) / "figures", plot.name, config.formats, config.dpi)
    hover = {gid: (cell, shown.by_cell[cell].text) for cell, gid in shown.gids.items()}
    colours = style.palette(len(shown.budgets))
    drawing = svg.inline_svg(figure, plot.name, plot.claim, colours, hover)
    links = " · ".join(
        f'<a href="figures/{path.name}">{path.suffix[1:].upper()}</a>' for path in saved
    )
    files = f' <span class="files">{links}</span>' if links else ""
    return (
        f'<figure id="figure-{plot.name}"><h3>{markup(plot.claim)}</h3>{drawing}'
        f"<figcaption>{markup(plot.caption)}{files}</figcaption></figure>"
    )


def markup(text: str) -> str:
    """Plain words as HTML: escaped, `**bold**`, exponents after ^ raised.

    >>> markup("a < **b**, N^0.34")
    'a &lt; <b>b</b>, N<sup>0.34</sup>'
    """
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text))
    return re.sub(r"\^([−\-]?[\d.]*\d)", r"<sup>\1</sup>", text)


def _page(
    title: str, laws: Json, shown: Scene, runs: Columns, drawn: Sequence[str], facts: Json
) -> str:
    line = "".join(f"<span>{escape(x)}</span>" for x in words.facts_line(laws, shown, facts))
    sections = [
        _answer_section(laws),
        section("Figures", f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""),
        _trust_section(laws),
        section("What to run next", tables.run_next_table(laws)),
        _left_out_section(laws),
        _runs_section(laws, shown, runs),
        _counting_section(laws, facts),
    ]
    css = stylesheet(style.palette(len(shown.budgets)))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{css}</style></head>\n<body>"
        f'<header><p class="kicker">gptjax scaling report</p><h1>{escape(title)}</h1>'
        f'<p class="facts">{line}</p></header>\n<main>{"".join(sections)}</main>\n'
        "<footer><p>Every number on this page is in <code>laws.json</code>; the page is rebuilt "
        "from that file, <code>runs.csv</code> and <code>curves.csv</code> alone.</p></footer>\n"
        f"<script>{_resource('page.js')}</script></body></html>\n"
    )


def stylesheet(colours: style.Palette) -> str:
    """The page's CSS, with the colours of budgets, or of whatever else is told apart."""
    text = _resource("page.css")
    text = text.replace("/*LIGHT*/", svg.css_variables(colours, dark=False))
    return text.replace("/*DARK*/", svg.css_variables(colours, dark=True))


def _resource(name: str) -> str:
    return (resources.files("gptjax.report") / name).read_text(encoding="utf-8")


def section(title: str, content: str, name: str = "") -> str:
    """A part of the page under a heading; nothing where it has no content."""
    if not content:
        return ""
    tag = name or re.sub(r"\W+", "-", title.lower())
    return f'<section id="{tag}"><h2>{escape(title)}</h2>{content}</section>\n'


def _answer_section(laws: Json) -> str:
    text, passed = words.verdict(laws)
    kind = "" if passed is None else " good" if passed else " bad"
    parts = [
        f'<p class="lead">{markup(words.lead(laws))}</p>',
        _tiles(laws),
        f'<p class="check{kind}">{markup(text)}</p>',
        _warnings(laws),
        f'<div class="tables">{tables.exponents_table(laws)}{tables.parameters_table(laws)}'
        f'<div class="wide">{tables.prediction_table(laws)}</div></div>',
    ]
    return f'<section id="answer">{"".join(parts)}</section>\n'


def _tiles(laws: Json) -> str:
    entry = headline(laws)
    items = []
    for key, label, text in (
        ("params", "Parameters", count_text),
        ("tokens", "Tokens", count_text),
        ("loss", "Loss, nats per token", fixed_text),
    ):
        value = bounded(entry, key)
        if math.isfinite(value.value):
            bounds = interval_text(value.low, value.high, text) or "no interval"
            items.append(("", label, text(value.value), bounds))
    error = holdout_error(laws)
    if math.isfinite(error):
        passed = abs(error) <= words.WITHIN
        note = "within 2\xa0% of measured" if passed else "not within 2\xa0%"
        kind = "good" if passed else "bad"
        items.append((kind, "Held-out error", percent_text(abs(error)), note))
    tiles = "".join(
        f'<dl class="tile {kind}"><dt>{label}</dt><dd>{value}<small>{note}</small></dd></dl>'
        for kind, label, value, note in items
    )
    return f'<div class="tiles">{tiles}</div>' if tiles else ""


def _warnings(laws: Json) -> str:
    items = "".join(f"<li>{escape(str(line))}</li>" for line in laws.get("warnings") or [])
    return f'<aside class="warn"><b>Before you use these numbers</b><ul>{items}</ul></aside>' * (
        bool(items)
    )


def _trust_section(laws: Json) -> str:
    lines = "".join(f"<li>{markup(line)}</li>" for line in words.certificate(laws))
    parts = [
        f'<ul class="plain">{lines}</ul>' if lines else "",
        tables.scores_table(laws),
        tables.conventions_table(laws),
        tables.drift_table(laws),
        tables.other_laws_table(laws),
        f"<p>{escape(words.threshold(laws))}</p>" if words.threshold(laws) else "",
        *(f"<p>{escape(sentence)}</p>" for sentence in words.settings(laws)),
    ]
    return section("Can this fit be trusted?", "".join(parts), "trust")


def _left_out_section(laws: Json) -> str:
    found = tables.left_out_table(laws)
    nothing = '<p class="note">Nothing: every run that was planned is in the fit.</p>'
    content = f'<div class="runs">{found}</div>' if found else nothing
    return section("What was left out", content, "left-out")


def _runs_section(laws: Json, shown: Scene, runs: Columns) -> str:
    found, same = tables.runs_table(laws, shown, runs)
    same = f" All runs: {same}." if same else ""
    hint = (
        '<p class="note screen">Click a heading to sort; point at a row to find the run in the '
        f"figures.</p>"
        f'<p class="note">{same}</p>'
    )
    return section("The runs", f'{hint}<div class="runs">{found}</div>' if found else "", "runs")


def _counting_section(laws: Json, facts: Json) -> str:
    text = " ".join(words.counting(laws))
    return section(
        "How it was counted", f"<p>{markup(text)}</p>{tables.timing_table(facts)}", "counting"
    )
