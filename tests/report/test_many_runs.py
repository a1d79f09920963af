"""Pages of thousands of runs: their tables are paged, their figures show a part and say so."""

import json
import re

import known_sweep
import numpy as np
import pytest

from gptjax.report import figures, plots, style, svg, tables, view, words
from gptjax.scaling.laws.saved import Laws


def many(count):
    """The known sweep with so many runs."""
    rows = [row for row in known_sweep._runs() if row["used"]]
    runs = [{**rows[i % len(rows)], "cell": f"run-{i}"} for i in range(count)]
    return Laws.of({"runs": runs}), known_sweep.runs_table(runs)


def test_a_long_table_is_paged():
    laws, table = many(450)
    html, _ = tables.runs_table(laws, view.scene(laws, table), table)
    assert html.count("<tr ") == tables.PAGE
    data = json.loads(re.search(r'id="all-runs">(.*?)</script>', html)[1])
    assert len(data) == len(table["cell"]) and data[300][0] == "run-300"
    assert f"rows 1–{tables.PAGE} of {len(data)}" in html
    name, colour, failed, _status, _reason, *numbers = data[0]
    assert f'<tr data-cell="{name}">' in html and f"var(--{colour})" in html and not failed
    assert f'<td data-v="{numbers[0]}">{numbers[1]}</td>' in html


def test_a_table_that_fits_has_no_pages():
    laws, table = many(tables.PAGE - 1)  # and a failed one
    html, _ = tables.runs_table(laws, view.scene(laws, table), table)
    assert "<script" not in html and html.count("<tr ") == tables.PAGE


def test_names_cannot_end_the_script():
    laws, table = many(250)
    table["cell"] = [f"</script><b>{name}" for name in table["cell"]]
    html, _ = tables.runs_table(laws, view.scene(laws, table), table)
    assert html.count("</script>") == 1 and "<b>" not in html.partition("<script")[0]


def test_runs_beyond_the_list_are_said():
    laws, table = many(tables.LISTED + 50)
    html, _ = tables.runs_table(laws, view.scene(laws, table), table)
    assert f"The table has the first {tables.LISTED:,}" in html
    assert len(html) < 1e6


def test_a_figure_of_many_runs_is_small_and_draws_them_all_alike():
    laws, table = many(2600)
    shown = view.scene(laws, table)
    figure, ax = style.new_figure()
    figures.draw_isoflop(ax, shown, {})
    points = sum(
        np.isfinite(line.get_xdata()).sum() for line in ax.lines if line.get_marker() == "o"
    )
    assert points == view.DRAWN and len(ax.lines) == len(shown.budgets)
    assert shown.drawn[0] is shown.runs[0] and shown.drawn[-1] is shown.runs[-1]
    drawing = svg.inline_svg(figure, "isoflop", "", style.palette(len(shown.budgets)), {})
    assert len(drawing) < 250_000
    assert "1,000 of 2,600 are drawn" in words.drawn(len(shown.runs), view.DRAWN)


def test_the_caption_says_what_is_not_drawn():
    laws, table = many(1200)
    shown = view.scene(laws, table)
    laws = Laws.of({"runs": [], "laws": {"isoflop": {"valleys": [{"budget": 1e12}]}}})
    (plot,) = plots.choose_plots(laws, shown, {}, 20)
    assert plot.caption.endswith("1,000 of 1,200 are drawn, at even distances in the plan.")


@pytest.mark.parametrize("count", [5, 500])
def test_time_of_many_bundles_is_summed(count):
    rows = [{"name": f"width {i}", "cells": 1, "seconds": {"train": 1.0}} for i in range(count)]
    rows.append({"name": "no cell at hand", "cells": 0, "seconds": {"idle": 3.0}})
    html = tables.timing_table({"timing": rows})
    assert html.count("<tr>") <= tables.BUNDLES + 5
    assert ("470 others" in html) == (count == 500)


def test_many_reasons_are_cut_and_counted():
    left_out = [{"cell": f"c{i}", "reason": "status failed"} for i in range(tables.LEFT_OUT + 7)]
    html = tables.left_out_table(Laws.of({"left_out": left_out}))
    assert "7 more" in html and html.count("status failed") == tables.LEFT_OUT
