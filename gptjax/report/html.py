"""The report page: one self-contained HTML file, rebuilt from records and laws alone.

Nothing here trains, fits or asks the clock: the same tables and laws give the same bytes.
"""

import functools
import math
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gptjax.files import write_atomic
from gptjax.report import style, tables, words
from gptjax.report.config import ReportConfig
from gptjax.report.figure_block import figure_block
from gptjax.report.numbers import count_text, fixed_text, interval_text, percent_text
from gptjax.report.plots import Plot, choose_plots
from gptjax.report.template import Section, markup, page, render
from gptjax.report.view import (
    Json,
    Scene,
    bounded,
    headline,
    holdout_error,
    scene,
    unit_of_loss,
)
from gptjax.scaling.laws.saved import Laws
from gptjax.scaling.laws.verdict import completed
from gptjax.threads import in_threads, on_one_core, unless_refused

Columns = Mapping[str, Sequence[Any]]


def build(
    workdir: Path,
    runs_table: Any,
    curves_table: Any,
    laws: Laws | Json,
    config: ReportConfig,
    *,
    title: str = "",
    facts: Json | None = None,
    spread: Callable[[Sequence[Callable[[], str]]], list[Any]] = in_threads,
) -> Path:
    """Write `workdir/report.html` and `workdir/figures/`, and return the page's path.

    Args:
      runs_table: the columns of `runs.csv`, as a mapping or a `scaling.Table`; None or empty: the
        runs that `laws` lists are shown.
      curves_table: the columns of `curves.csv` (cell, flops, loss), or None.
      laws: a `scaling.Laws`, or the content of `laws.json`; sections may be missing.
      title: what was swept; `config.title` overrides it.
      facts: texts to show under the title, `seconds` in all, and `timing`: rows
        with the name of a bundle, its number of cells and its worker seconds by phase.
      spread: draws the figures; one after the other by default.

    The page and each figure appear whole or not at all.
    """
    laws = completed(Laws.of(laws))
    runs, curves = columns_of(runs_table), columns_of(curves_table)
    shown = scene(laws, runs)
    plots = choose_plots(laws, shown, curves, config.curve_points)
    calls = [functools.partial(_draw, plot, shown, workdir, config) for plot in plots]
    # In no threads: Matplotlib's style is the process's.
    drawn = [unless_refused(figure) for figure in on_one_core(spread, calls)]
    heading = config.title or title or "Scaling report"
    content = _page(heading, laws, shown, runs, drawn, facts or {})
    path = Path(workdir) / "report.html"
    write_atomic(path, content.encode())
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
    caption = markup(plot.caption)
    return figure_block(
        figure, plot.name, plot.claim, colours, caption=caption, saved=saved, hover=hover
    )


def _page(
    title: str, laws: Laws, shown: Scene, runs: Columns, drawn: Sequence[str], facts: Json
) -> str:
    figures = f'<div class="figures">{"".join(drawn)}</div>' if drawn else ""
    return page(
        title,
        kicker="gptjax scaling report",
        facts=words.facts_line(laws, shown, facts),
        colours=style.palette(len(shown.budgets)),
        sections=[
            Section("", _answer(laws), "answer"),
            Section("Figures", figures),
            Section("Can this fit be trusted?", _trust(laws), "trust"),
            Section("Suggested next runs", tables.run_next_table(laws)),
            Section("Runs left out", _left_out(laws), "left-out"),
            Section("The runs", _runs(laws, shown, runs), "runs"),
            Section("How it was counted", _counting(laws, facts), "counting"),
        ],
        footer="Every number on this page is in <code>laws.json</code>; the page is rebuilt "
        "from that file, <code>runs.csv</code> and <code>curves.csv</code> alone.",
        script="page.js",
    )


def _answer(laws: Laws) -> str:
    text, passed = words.verdict(laws)
    return render(
        "answer",
        verdict=words.judged(laws),
        lead=words.lead(laws),
        tiles=_tiles(laws),
        check=text,
        kind="" if passed is None else " good" if passed else " bad",
        warnings=[str(line) for line in laws.notes],
        tables=f"{tables.exponents_table(laws)}{tables.parameters_table(laws)}"
        f'<div class="wide">{tables.prediction_table(laws)}</div>',
    )


def _tiles(laws: Laws) -> list[tuple[str, str, str, str]]:
    """(kind, label, value, note) of each large number."""
    entry = headline(laws)
    items = []
    for key, label, text in (
        ("params", "Parameters", count_text),
        ("tokens", "Tokens", count_text),
        ("loss", f"Loss, {unit_of_loss(laws)}", fixed_text),
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
    return items


def _trust(laws: Laws) -> str:
    found = (
        tables.scores_table(laws),
        tables.conventions_table(laws),
        tables.drift_table(laws),
        tables.other_laws_table(laws),
    )
    threshold = words.threshold(laws)
    sentences = [*([threshold] if threshold else []), *words.settings(laws), *words.joint(laws)]
    return render(
        "trust", lines=words.certificate(laws), tables="".join(found), sentences=sentences
    )


def _left_out(laws: Laws) -> str:
    found = tables.left_out_table(laws)
    nothing = '<p class="note">Nothing: every run that was planned is in the fit.</p>'
    return f'<div class="runs">{found}</div>' if found else nothing


def _runs(laws: Laws, shown: Scene, runs: Columns) -> str:
    found, same = tables.runs_table(laws, shown, runs)
    same = f" All runs: {same}." if same else ""
    hint = (
        '<p class="note screen">Click a heading to sort; point at a row to find the run in the '
        f"figures.</p>"
        f'<p class="note">{same}</p>'
    )
    return f'{hint}<div class="runs">{found}</div>' if found else ""


def _counting(laws: Laws, facts: Json) -> str:
    text = " ".join(words.counting(laws))
    return f"<p>{markup(text)}</p>{tables.timing_table(facts)}"
