"""job=plan: print which cells a sweep would train, and stop."""

import dataclasses
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptjax import build, sweeps
from gptjax.build import Setup
from gptjax.data import Corpus
from gptjax.jobs import tuned
from gptjax.jobs.train import make_spec
from gptjax.jobs.variants import folder_name, variants
from gptjax.scaling import walltime
from gptjax.sweeps import Bundle, Cell, Member, Trial, shapes, timing

STACK_ON_ACCELERATORS = 16
LANE_SHOWN = 12
"""Bundles of a worker that a plan names."""


def main(setup: Setup, folder: Path) -> int:
    """Print the plan; nothing is trained and nothing is written but the token cache.

    In a folder that was tuned, with what the tuning found.
    """
    corpus = build.load_corpus(setup)
    if setup.compare.sweeps:
        return _print_variants(setup, folder, corpus)
    setup = tuned.resolved(setup, folder)
    print_plan(setup, make_cells(setup, corpus))
    if setup.sweep.tune:
        runs = len(make_trials(setup, corpus))
        print(f"before them {runs} runs tune the learning rate (--config.job=tune), more if needed")
    return 0


def _print_variants(setup: Setup, folder: Path, corpus: Corpus) -> int:
    """The plan of every sweep of a comparison, and the time of all."""
    total = 0.0
    for label, variant in variants(setup).items():
        print(f"sweep of {label}")
        variant = tuned.resolved(variant, folder / folder_name(label))
        total += print_plan(variant, make_cells(variant, corpus))
    print(f"all sweeps: predicted {duration(total)}")
    return 0


def make_cells(setup: Setup, corpus: Corpus) -> list[Cell]:
    """The cells of a config on a corpus."""
    if setup.general.job == "compare":
        return [member.cell for member in make_members(setup, corpus)]
    if setup.general.job == "tune":
        return [trial.cell for trial in make_trials(setup, corpus)]
    return sweeps.make_plan(
        setup.sweep,
        build.make_model(setup, corpus),
        setup.optim,
        setup.train,
        corpus.fingerprint,
        mask_end_of_document=corpus.mask_end_of_document,
    )


def make_members(setup: Setup, corpus: Corpus) -> list[Member]:
    """The runs of a comparison on a corpus."""
    base = make_spec(setup, corpus)
    return sweeps.make_comparison(setup.compare, base, corpus.fingerprint)


def make_trials(setup: Setup, corpus: Corpus) -> list[Trial]:
    """The runs of a tuning on a corpus."""
    return sweeps.make_trials(
        setup.sweep,
        build.make_model(setup, corpus),
        setup.optim,
        setup.train,
        corpus.fingerprint,
        mask_end_of_document=corpus.mask_end_of_document,
    )


def make_bundles(setup: Setup, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells as workers take them."""
    stack = setup.sweep.stack or (1 if only_cpu(setup) else STACK_ON_ACCELERATORS)
    return sweeps.make_bundles(dataclasses.replace(setup.sweep, stack=stack), setup.train, cells)


def worker_count(setup: Setup, work: Sequence[Any]) -> int:
    """Processes on this machine: as configured, else one a core (one in all off the CPU)."""
    wanted = setup.sweep.workers
    if wanted == 0:
        wanted = len(available_cores()) if only_cpu(setup) else 1
    return max(1, min(wanted, len(work)))


def only_cpu(setup: Setup) -> bool:
    """Whether the workers will compute on the CPU, judged without starting JAX."""
    if setup.general.device in ("gpu", "tpu"):
        return False
    if setup.general.device == "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin", "libtpu", "jax_rocm7_plugin")
    return not any(importlib.util.find_spec(name) for name in plugins)


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def print_plan(setup: Setup, cells: Sequence[Cell]) -> float:
    """Print the table of cells with their predicted time; returns the predicted wall seconds."""
    reference = timing.reference_rate()
    bundles = make_bundles(setup, cells)
    workers = worker_count(setup, bundles)
    lanes = timing.schedule(bundles, reference, workers)
    total = max(lane.finish for lane in lanes)
    seconds = timing.predicted_by_cell(bundles, reference)
    table = Table(title=f"Plan: {len(cells)} cells", title_justify="left", header_style="bold")
    for name in (
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
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for cell in cells:
        table.add_row(*_row(cell, seconds[cell.id]))
    console = Console(width=None if sys.stdout.isatty() else 130)
    console.print(table)
    flops, trained = sum(cell.flops for cell in cells), sum(b.total_flops for b in bundles)
    shared = f", {trained:.3g} of them trained (lengths share trunks)" if trained < flops else ""
    widest = max((len(bundle.cells) for bundle in bundles if bundle.stacked), default=0)
    shared += f", up to {widest} side by side" if widest else ""
    line = (
        f"{len(cells)} cells, {flops:.3g} FLOPs in all{shared}; predicted {duration(total)} on "
        f"{workers} {'process' if workers == 1 else 'processes'} of this machine's cores"
    )
    price = setup.sweep.price_per_device_hour
    if price:
        line += f", {price * total / 3600:.2f} at {price:g} a device-hour"
    console.print(line, highlight=False)
    for number, lane in enumerate(lanes):
        console.print(f"  process {number}: {_lane(lane)}", highlight=False)
    if setup.machine.flops_per_s:
        console.print(_elsewhere(setup, cells), highlight=False)
    return total


def _lane(lane: timing.Lane) -> str:
    """A worker's bundles in their order, by width, and when it ends."""
    shown = [
        f"{bundle.cells[0].run.model.width}"
        + (f" ({len(bundle.cells)} cells)" if len(bundle.cells) > 1 else "")
        for bundle in lane.bundles[:LANE_SHOWN]
    ]
    more = len(lane.bundles) - len(shown)
    rest = f", {more} more" if more else ""
    return f"widths {', '.join(shown)}{rest}; ends after {duration(lane.finish)}"


def _elsewhere(setup: Setup, cells: Sequence[Cell]) -> str:
    """The same cells on the machine of the config: hours, and money where there is a price."""
    machine, price = setup.machine, setup.sweep.price_per_device_hour
    bill = walltime.bill([cell.flops for cell in cells], machine, price)
    line = (
        f"on {machine.devices} devices at {machine.flops_per_s:.3g} FLOP/s, "
        f"{machine.devices_per_run} a run, {machine.serial_fraction:.3g} of a step serial: "
        f"{duration(bill.wall_seconds)}, {bill.device_hours:.4g} device-hours"
    )
    return line + (f", {bill.money:.2f} at {price:g} a device-hour" if price else "")


def _row(cell: Cell, seconds: float) -> tuple[str, ...]:
    run, count = cell.run, shapes.counts(cell.run.model)
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
        f"{shapes.flops_6nd(run):.4g}",
        f"{seconds:.1f}",
    )


def duration(seconds: float) -> str:
    """A time a person reads.

    >>> duration(42.4), duration(75), duration(7300)
    ('42 s', '1 min 15 s', '2 h 2 min')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"
