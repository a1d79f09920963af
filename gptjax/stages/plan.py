"""The plan that a person reads: a table of cells, and their time and money."""

import sys
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax import models
from gptjax.config import Config
from gptjax.cost import walltime
from gptjax.cost.flops import flops_6nd
from gptjax.engines import cells as planned
from gptjax.engines import cores
from gptjax.files import write_atomic
from gptjax.report.numbers import duration_text
from gptjax.sweeps import Cell, timing

LINE = 130
"""Characters of a line where the output is no terminal, or more where the table has more."""

COLUMNS = (
    "budget",
    "width",
    "depth",
    "params",
    "no embed",
    "+ head",
    "tokens",
    "batch",
    "steps",
    "lr",
    "FLOPs",
    "6ND",
    "seconds",
)
LEFT_OUT = ("6ND", "+ head", "no embed", "depth", "batch", "steps", "lr", "budget", "width")
"""Columns that a narrow terminal has no room for, the first to go first."""

FILE = "plan.csv"
"""The whole table, beside a sweep's other files."""

LANE_SHOWN = 12
"""Bundles of a worker that a plan names."""


def print_plan(config: Config, cells: Sequence[Cell], folder: Path) -> float:
    """Print the table of cells with their predicted time; returns the predicted wall seconds.

    Where the terminal has no room for every column, the whole table is in `folder/plan.csv`.
    """
    reference = timing.reference_rate()
    bundles = planned.make_bundles(config, cells)
    workers = cores.worker_count(config, bundles)
    lanes = timing.schedule(bundles, reference, workers)
    total = max(lane.finish for lane in lanes)
    seconds = timing.predicted_by_cell(bundles, reference)
    rows = [_row(cell, seconds[cell.id]) for cell in cells]
    console = Console(width=None if sys.stdout.isatty() else max(LINE, full_width(rows)))
    _print_table(console, rows, folder / FILE)
    flops, trained = sum(cell.flops for cell in cells), sum(b.total_flops for b in bundles)
    shared = f", {trained:.3g} of them trained (lengths share trunks)" if trained < flops else ""
    widest = max((len(bundle.cells) for bundle in bundles if bundle.stacked), default=0)
    shared += f", up to {widest} side by side" if widest else ""
    line = (
        f"{len(cells)} cells, {flops:.3g} FLOPs in all{shared}; predicted "
        f"{duration_text(total)} on {workers} {'process' if workers == 1 else 'processes'} of "
        "this machine's cores"
    )
    price = config.sweep.price_per_device_hour
    if price:
        line += f", {price * total / 3600:.2f} at {price:g} a device-hour"
    console.print(line, highlight=False)
    for number, lane in enumerate(lanes):
        console.print(f"  process {number}: {_lane(lane)}", highlight=False)
    if config.machine.flops_per_s:
        console.print(_elsewhere(config, cells), highlight=False)
    return total


def _print_table(console: Console, rows: Sequence[tuple[str, ...]], path: Path) -> None:
    """The columns that fit, whole, and the names of the others, which are in a file."""
    shown = shown_columns(rows, console.width)
    table = Table(title=f"Plan: {len(rows)} cells", title_justify="left", header_style="bold")
    for name in shown:
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        cells = dict(zip(COLUMNS, row, strict=True))
        table.add_row(*(cells[name] for name in shown))
    console.print(table)
    hidden = [name for name in COLUMNS if name not in shown]
    if hidden:
        write_atomic(path, "\n".join(",".join(_plain(row)) for row in (COLUMNS, *rows)) + "\n")
        console.print(
            f"without {', '.join(hidden)}, which {console.width} columns have no room for; "
            f"{path} has all",
            highlight=False,
            soft_wrap=True,
        )


def _plain(row: Sequence[str]) -> list[str]:
    """Cells as a CSV file has them: without thousands, nothing for what is missing."""
    return [cell.replace(",", "").replace("–", "") for cell in row]


def shown_columns(rows: Sequence[tuple[str, ...]], width: int) -> list[str]:
    """The names of the columns that fit in so many characters, beside their frame."""
    wide = _widths(rows)
    for name in LEFT_OUT:
        if sum(wide.values()) + 1 <= width:
            break
        del wide[name]
    return list(wide)


def full_width(rows: Sequence[tuple[str, ...]]) -> int:
    """Characters of a line with every column."""
    return sum(_widths(rows).values()) + 1


def _widths(rows: Sequence[tuple[str, ...]]) -> dict[str, int]:
    """The characters of each column with its part of the frame."""
    columns = zip(COLUMNS, zip(*rows, strict=True), strict=True)
    return {name: max(map(len, (name, *column))) + 3 for name, column in columns}


def _lane(lane: timing.Lane) -> str:
    """A worker's bundles in their order, by width, and when it ends."""
    shown = [
        f"{bundle.cells[0].run.model.width}"
        + (f" ({len(bundle.cells)} cells)" if len(bundle.cells) > 1 else "")
        for bundle in lane.bundles[:LANE_SHOWN]
    ]
    more = len(lane.bundles) - len(shown)
    rest = f", {more} more" if more else ""
    return f"widths {', '.join(shown)}{rest}; ends after {duration_text(lane.finish)}"


def _elsewhere(config: Config, cells: Sequence[Cell]) -> str:
    """The same cells on the machine of the config: hours, and money where there is a price."""
    machine, price = config.machine, config.sweep.price_per_device_hour
    bill = walltime.bill([cell.flops for cell in cells], machine, price)
    line = (
        f"on {machine.devices} devices at {machine.flops_per_s:.3g} FLOP/s, "
        f"{machine.devices_per_run} a run, {machine.serial_fraction:.3g} of a step serial: "
        f"{duration_text(bill.wall_seconds)}, {bill.device_hours:.4g} device-hours"
    )
    return line + (f", {bill.money:.2f} at {price:g} a device-hour" if price else "")


def _row(cell: Cell, seconds: float) -> tuple[str, ...]:
    run, count = cell.run, models.count_params(cell.run.model)
    return (
        f"{cell.budget:.3g}" if cell.budget else "–",
        str(run.model.width),
        str(run.model.depth),
        f"{count.total:,}",
        f"{count.non_embedding:,}",
        f"{count.non_embedding_with_head:,}",
        f"{run.tokens:,}",
        str(run.batch_size),
        f"{run.steps:,}",
        f"{run.optim.learning_rate:.3g}",
        f"{cell.flops:.4g}",
        f"{flops_6nd(run):.4g}",
        f"{seconds:.1f}",
    )
