"""The tables of the page, as HTML, and of the terminal, as text."""

import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any

from gptjax.report.numbers import (
    count_text,
    duration_text,
    exact_text,
    fixed_text,
    interval_text,
    percent_text,
    power_text,
)
from gptjax.report.template import render
from gptjax.report.view import (
    Json,
    Number,
    Scene,
    bounded,
    exponents,
    law_label,
    number,
    other_laws,
    part,
    real,
    table_rows,
    unit_of_loss,
)
from gptjax.report.words import three
from gptjax.scaling.laws.saved import Laws

Cell = str | tuple[str, float]  # HTML, or HTML with the number it is sorted by

_GREEK = {"alpha": "α", "beta": "β", "gamma": "γ"}


def interval_html(value: Number, text=fixed_text) -> str:
    """'0.523 [0.48, 0.56]' with the interval set quieter than the value."""
    bounds = interval_text(value.low, value.high, text)
    return text(value.value) + (f'<span class="ci">{bounds}</span>' if bounds else "")


def table(
    caption: str,
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    note: str = "",
    text_columns: Sequence[int] = (),
) -> str:
    """A plain table; columns hold numbers (set right) unless named in `text_columns`."""
    rows = list(rows)
    if not rows:
        return ""
    return render(
        "table", caption=caption, note=note, head=head, rows=rows, text_columns=text_columns
    )


def exponents_table(laws: Laws) -> str:
    rows = []
    for name, (a, b) in exponents(laws).items():
        rows.append([law_label(name), interval_html(a, three), interval_html(b, three)])
    return table(
        "How to split compute",
        ["", "a", "b"],
        rows,
        note="N<sub>opt</sub> ∝ C<sup>a</sup>, D<sub>opt</sub> ∝ C<sup>b</sup>",
    )


def parameters_table(laws: Laws) -> str:
    law = laws.law("chinchilla_parametric")
    rows = []
    for name in ("E", "A", "B", "alpha", "beta"):
        value = number(part(law, "params"), name)
        if math.isfinite(value.value):
            rows.append([_GREEK.get(name, name), interval_html(value)])
    return table(
        "The loss law",
        ["", "value"],
        rows,
        note="L(N, D) = E + A/N<sup>α</sup> + B/D<sup>β</sup>, " + escape(unit_of_loss(laws)),
    )


def prediction_table(laws: Laws) -> str:
    rows = []
    for entry in laws.prediction:
        rows.append(
            [
                escape(law_label(str(entry.get("law")))),
                power_text(real(entry.get("flops"))),
                interval_html(bounded(entry, "params"), count_text),
                interval_html(bounded(entry, "tokens"), count_text),
                fixed_text(real(entry.get("tokens_per_param")), 3),
                interval_html(bounded(entry, "loss")),
            ]
        )
    head = ["by", "FLOPs", "parameters", "tokens", "tokens each"]
    head.append(f"loss, {escape(unit_of_loss(laws))}")
    return table("Predicted optimum", head, rows)


def other_laws_table(laws: Laws) -> str:
    """Further forms, one row a parameter."""
    rows = []
    for name, law in other_laws(laws).items():
        for i, key in enumerate(part(law, "params")):
            label = escape(law_label(name)) if i == 0 else ""
            equation = escape(str(law.get("equation") or "")) if i == 0 else ""
            value = interval_html(number(law["params"], key))
            rows.append([label, equation, _GREEK.get(key, escape(key)), value])
    head = ["form", "equation", "parameter", "value"]
    return table("Other forms", head, rows, text_columns=(1, 2))


def conventions_table(laws: Laws) -> str:
    rows = []
    for row in laws.conventions.get("table") or []:
        cells = [f"{row.get('params')}, {row.get('flops')}".replace("_", " ")]
        cells += [
            interval_html(number(row, key), three) for key in ("E", "alpha", "beta", "a", "b")
        ]
        cells += [percent_text(abs(real(row.get("holdout_error")))), escape(row.get("note") or "")]
        rows.append(cells)
    head = ["N, C counted as", "E", "α", "β", "a", "b", "held-out error", ""]
    return table("The same fit under each way of counting", head, rows, text_columns=(7,))


def scores_table(laws: Laws) -> str:
    rows = []
    for row in laws.scores:
        counts = [exact_text(real(row.get(key))) for key in ("n_train", "n_heldout")]
        rows.append(
            [
                escape(str(row.get("form")).replace("_", " ")),
                escape(str(row.get("split")).replace("_", " ")),
                " / ".join(counts),
                percent_text(real(row.get("mean_relative_error"))),
                percent_text(real(row.get("max_relative_error"))),
                fixed_text(real(row.get("log_likelihood"))),
                f"{exact_text(100 * real(row.get('coverage')), 3)} %",
            ]
        )
    head = ["form", "held out", "runs fitted / held out", "mean error", "largest error"]
    head += ["log-likelihood", "inside interval"]
    return table("Forms compared on held-out budgets", head, rows, text_columns=(1,))


def drift_table(laws: Laws) -> str:
    keys = ("a", "b", "E", "alpha", "beta", "loss_at_prediction")
    rows = [
        [escape(str(row.get("left_out"))), *(fixed_text(number(row, key).value) for key in keys)]
        for row in laws.drift
    ]
    head = ["left out", "a", "b", "E", "α", "β", "predicted loss"]
    return table("How far the answer moves when a part is left out", head, rows)


def run_next_table(laws: Laws) -> str:
    plan = laws.run_next or {}
    rows = [
        [
            count_text(real(cell.get("params"))),
            count_text(real(cell.get("tokens"))),
            power_text(real(cell.get("flops"))),
            exact_text(real(cell.get("repeats"))),
        ]
        for cell in plan.get("cells") or []
    ]
    before, after = number(plan, "before"), number(plan, "after")
    note = (
        f"for {power_text(real(plan.get('allowance_flops')))} FLOPs, the interval of "
        f"{escape(str(plan.get('quantity', 'the loss')).replace('_', ' '))} at "
        f"{power_text(real(plan.get('target_flops')))} FLOPs goes from "
        f"{interval_text(before.low, before.high)} to {interval_text(after.low, after.high)}"
    )
    head = ["parameters", "tokens", "FLOPs", "repeats"]
    return table("Suggested next runs", head, rows, note=note if rows else "")


def timing_table(facts: Json) -> str:
    """Worker time by bundle and phase, with the sum of each phase and its share below.

    Where the rate of the workers' products is known, also the share of the training that products
    would take at that rate: the rest is what else a step does, and slower products.
    """
    rows = [row for row in facts.get("timing") or [] if isinstance(row, Mapping)]
    phases = list(dict.fromkeys(phase for row in rows for phase in row["seconds"]))
    sums = {phase: sum(real(row["seconds"].get(phase, 0.0)) for row in rows) for phase in phases}
    total = sum(sums.values())
    if not total > 0:
        return ""

    def cells(name: str, count: str, seconds: Mapping[str, Any]) -> list[str]:
        texts = [duration_text(real(seconds[p])) if p in seconds else "" for p in phases]
        whole = sum(real(value) for value in seconds.values())
        return [escape(name), count, *texts, duration_text(whole), percent_text(whole / total)]

    products = [_product_share(rows)]
    rows = _costliest(rows, phases)
    body = [cells(str(r["name"]), str(r["cells"] or ""), r["seconds"]) for r in rows]
    body.append(cells("all", "", sums))
    shares = [percent_text(sums[phase] / total) for phase in phases]
    body.append(["share", "", *shares, percent_text(1.0), ""])
    head = ["bundle", "cells", *(phase.replace("_", " ") for phase in phases), "in all", "share"]
    if products[0]:
        products = [*(_product_share([row]) for row in rows), *products, ""]
        body = [[*row, share] for row, share in zip(body, products, strict=True)]
        head.append("products of train")
    return table("Where the time went", head, body)


def _product_share(rows: Sequence[Json]) -> str:
    """Seconds of products at their best rate over those of training; '' where one is unknown."""
    trained = [row for row in rows if "train" in row["seconds"]]
    spent = sum(real(row["seconds"]["train"]) for row in trained)
    share = sum(real(row.get("products")) for row in trained) / spent if spent > 0 else math.nan
    return percent_text(share) if math.isfinite(share) else ""


def _costliest(rows: list[Json], phases: Sequence[str]) -> list[Json]:
    """The first `BUNDLES` rows, which are the costliest, and the others as one."""
    if len(rows) <= BUNDLES + 1:
        return rows
    rest, idle = rows[BUNDLES:-1], rows[-1]
    others = {
        "name": f"{len(rest):,} others",
        "cells": sum(int(row["cells"] or 0) for row in rest),
        "products": sum(real(row.get("products")) for row in rest),
        "seconds": {
            phase: sum(real(row["seconds"].get(phase, 0.0)) for row in rest)
            for phase in phases
            if any(phase in row["seconds"] for row in rest)
        },
    }
    return [*rows[:BUNDLES], others, idle]


BUNDLES = 30
"""Most bundles whose time is shown one by one."""

LEFT_OUT = 200
"""Most runs whose reason is shown; all are in laws.json."""

PAGE = 200
"""Runs on one page of their table."""

LISTED = 2000
"""Most runs that the table can be paged through."""


def left_out_table(laws: Laws) -> str:
    rows = [
        [f"<code>{escape(str(row.get('cell')))}</code>", escape(str(row.get("reason") or ""))]
        for row in laws.left_out[:LEFT_OUT]
    ]
    if len(laws.left_out) > LEFT_OUT:
        more = f"{len(laws.left_out) - LEFT_OUT:,} more"
        rows.append([more, "see <code>laws.json</code>"])
    for valley in laws.law("isoflop").get("valleys") or []:
        if not valley.get("used"):
            name = f"valley at {power_text(real(valley.get('budget')))} FLOPs"
            rows.append([name, escape(str(valley.get("reason") or "no reason recorded"))])
    return table("", ["left out", "reason"], rows, text_columns=(1,))


# column of runs.csv: (heading, how it is written)
_RUN_COLUMNS = {
    "budget": ("budget", power_text),
    "params_total": ("parameters", count_text),
    "params_non_embedding": ("without emb.", count_text),
    "params": ("parameters", count_text),
    "tokens": ("tokens", count_text),
    "flops": ("FLOPs", lambda v: power_text(v, 2)),
    "depth": ("depth", exact_text),
    "width": ("width", exact_text),
    "batch_size": ("batch", exact_text),
    "steps": ("steps", exact_text),
    "learning_rate": ("learning rate", exact_text),
    "seed": ("seed", exact_text),
    "loss": ("loss", fixed_text),
    "bits_per_byte": ("bits/byte", fixed_text),
    "seconds": ("time", duration_text),
}


def runs_table(
    laws: Laws, scene: Scene, columns: Mapping[str, Sequence[Any]] | None
) -> tuple[str, str]:
    """Every run, sortable by any column; from `runs.csv`, or from the laws where it is absent.

    Returns the table, and a sentence part that names the settings which all runs share.
    """
    fitted = {str(row.get("cell")): dict(row) for row in laws.runs}
    # A table of one's own may call its columns by other names than the laws do.
    rows = [{**row, **fitted.get(str(row["cell"]), {})} for row in table_rows(columns)]
    rows = rows or list(fitted.values())
    shown, same = _split_columns(rows)
    residuals = {
        str(row.get("cell")): real(row.get("log_residual"))
        for row in laws.law("chinchilla_parametric").get("residuals") or []
    }
    names = ["run", "status", *(_RUN_COLUMNS[key][0] for key in shown)]
    names += ["off the law"] if residuals else []
    head = "".join(
        f"<th{' class=text' if i < 2 else ''}><button>{name}</button></th>"
        for i, name in enumerate(names)
    )
    cells = [_run_cells(row, shown, scene, residuals) for row in rows[:LISTED]]
    body = "".join(map(_run_row, cells[:PAGE]))
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return (_pages(cells, len(rows)) + table if rows else ""), ", ".join(same)


def _pages(cells: Sequence[list], count: int) -> str:
    """What the page needs to show the other rows of a long table; nothing for a short one."""
    if count <= PAGE:
        return ""
    listed = f" The table has the first {LISTED:,}." if count > LISTED else ""
    data = json.dumps(cells, ensure_ascii=False, separators=(",", ":")).replace("</", "<\\/")
    return (
        f'<p class="note" id="pages" data-size="{PAGE}"><span>rows 1–{PAGE} of {count:,}</span>'
        f"{listed} All are in <code>runs.csv</code>.</p>"
        f'<script type="application/json" id="all-runs">{data}</script>'
    )


def _split_columns(rows: Sequence[Json]) -> tuple[list[str], list[str]]:
    """The columns that differ between runs, and 'name value' of the settings that do not."""
    shown, same = [], []
    for key, (name, text) in _RUN_COLUMNS.items():
        values = {real(row.get(key)) for row in rows}
        values = {value for value in values if math.isfinite(value)}
        if len(values) == 1 and len(rows) > 1 and key in _SETTINGS:
            same.append(f"{name} {text(values.pop())}")
        elif values:
            shown.append(key)
    return shown, same


_SETTINGS = frozenset(("depth", "width", "batch_size", "steps", "learning_rate", "seed"))


def _run_cells(
    row: Json, shown: Sequence[str], scene: Scene, residuals: Mapping[str, float]
) -> list[Any]:
    """Name, colour, whether it failed, status, reason; then of each number key and text."""
    cell = str(row.get("cell"))
    run = scene.by_cell.get(cell)
    failed = str(row.get("status") or "done") != "done"
    status = "failed" if failed else "in the fit" if run and run.used else "left out"
    reason = str(row.get("reason") or "") if failed else ""
    numbers = [_keyed(real(row.get(key)), _RUN_COLUMNS[key][1]) for key in shown]
    if residuals:
        numbers.append(_keyed(residuals.get(cell, math.nan), percent_text))
    colour = f"b{run.shade}" if run else "grid"
    return [cell, colour, int(failed), status, reason, *(text for pair in numbers for text in pair)]


def _keyed(value: float, text: Callable[[float], str]) -> tuple[str, str]:
    """What a number is sorted by, and how it is written."""
    key = f"{value:.10g}" if math.isfinite(value) else ""
    return key, text(value) if key else "–"


def _run_row(cells: Sequence[Any]) -> str:
    cell, colour, failed, status, reason, *numbers = cells
    swatch = f'<i class="swatch" style="background:var(--{colour})"></i>'
    parts = [
        f"<td>{swatch}<code>{escape(cell)}</code></td>",
        f'<td class="text" title="{escape(reason)}">{status}</td>',
    ]
    pairs = zip(numbers[::2], numbers[1::2], strict=True)
    parts += [f'<td data-v="{key}">{text}</td>' for key, text in pairs]
    kind = ' class="failed"' if failed else ""
    return f'<tr{kind} data-cell="{escape(cell)}">{"".join(parts)}</tr>'
