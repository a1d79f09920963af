"""Sweeps of thousands of cells: the plan's schedule, a look at the folder, fit and report.

    python -m benchmarks.many_cells schedule
    python -m benchmarks.many_cells looks
    python -m benchmarks.many_cells fit --cells 2000
    python -m benchmarks.many_cells rows --cells 200000
    python -m benchmarks.many_cells columns --cells 100000

Records are written as a worker writes them, with the losses of a Chinchilla law and noise of the
seed; no cell is trained. Run one part a process: the peak of memory is the process's.
"""

import argparse
import contextlib
import dataclasses
import functools
import json
import resource
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from gptjax import scaling
from gptjax.config import default_config, make_config
from gptjax.engines.display import Display
from gptjax.engines.worker import OpenBundles
from gptjax.models import ModelConfig, count_params
from gptjax.optim import OptimConfig
from gptjax.stages.fit import fit_and_report
from gptjax.sweeps import Cell, Claims, SweepConfig, make_bundles, make_plan, records, timing
from gptjax.train import Evaluation, RunResult, TrainConfig

MODEL = ModelConfig(depth=3, width=32, num_heads=2, seq_len=64, vocab_size=257, use_bias=False)
SEED_NOISE = 0.003
CURVE_POINTS = 100


def plan(count: int) -> list[Cell]:
    """Cells of ten budgets, ten sizes and as many seeds as make so many."""
    budgets = tuple(float(budget) for budget in np.geomspace(1e12, 1e15, 10))
    sweep = SweepConfig(budgets=budgets, sizes=10, seeds=tuple(range(-(-count // 100))))
    return make_plan(sweep, MODEL, OptimConfig(), TrainConfig(), "corpus")[:count]


def bundles_of(cells: list[Cell]) -> list:
    return make_bundles(SweepConfig(stack=1), TrainConfig(), cells)


def write_record(folder: Path, cell: Cell) -> None:
    """A record with the loss of a law, as a worker would write it."""
    steps = np.unique(np.geomspace(1, cell.run.steps, CURVE_POINTS).astype(int))
    noise = 1 + SEED_NOISE * np.random.default_rng(int(cell.id[:8], 16)).normal(size=len(steps))
    params = count_params(cell.run.model).non_embedding_with_head
    tokens = steps * cell.run.batch_size * cell.run.model.seq_len
    losses = (1.7 + 30 * params**-0.34 + 60 * tokens**-0.3) * noise
    result = RunResult(
        evaluation=Evaluation(losses[-1], 0.001, losses[-1] / np.log(2)),
        history=((cell.run.steps, losses[-1]),),
        curve_steps=tuple(steps.tolist()),
        curve_losses=tuple(losses.tolist()),
        params_digest="",
        skipped_steps=0,
        updates=cell.run.steps,
        seconds={"compile": 1.0, "train": 9.0, "evaluate": 1.0, "checkpoint": 0.0},
    )
    records.write_done(folder, cell, result, entropy=None, worker="synthetic")


@contextlib.contextmanager
def measured(what: str) -> Iterator[None]:
    """Print wall seconds, processor seconds and the process's peak of memory."""
    wall, spent = time.perf_counter(), time.process_time()
    yield
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{what}: {wall:.2f} s, {spent:.2f} s of processor, peak {peak:.2f} GB", flush=True)


def best_of(action: Callable[[], Any], repeats: int = 5) -> float:
    """Seconds of the fastest of some calls."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - started)
    return min(seconds)


def schedule(options: argparse.Namespace) -> None:
    """The schedule of a plan on two workers, and the exponent of its time in cells."""
    counts = (500, 1000, 2000, 4000)
    seconds = []
    for count in counts:
        bundles = bundles_of(plan(count))
        seconds.append(best_of(functools.partial(timing.schedule, bundles, 1e11, 2), 3))
    slope = np.polyfit(np.log(counts), np.log(seconds), 1)[0]
    shown = ", ".join(f"{n}: {s:.3f} s" for n, s in zip(counts, seconds, strict=True))
    print(f"schedule of {shown}; exponent {slope:.2f}")


def looks(options: argparse.Namespace) -> None:
    """An idle worker's look and an update of the display, with so many cells done."""
    config = make_config(default_config())
    for count in (100, 1000, 4000):
        with tempfile.TemporaryDirectory() as name:
            folder, cells = Path(name), plan(count)
            for cell in cells[1:]:  # whole is not needed: a look asks whether there is one
                path = records.record_path(folder, cell)
                path.parent.mkdir(exist_ok=True)
                path.touch()
            Claims(folder, stale_seconds=60).take(cells[0].id)
            open_ones = OpenBundles(folder, bundles_of(cells), Claims(folder, stale_seconds=60))
            display = Display(config, folder, bundles_of(cells))
            first = best_of(open_ones.take, 1), best_of(display.update, 1)
            later = best_of(open_ones.take), best_of(display.update)
        milliseconds = [f"{1e3 * value:.2f}" for value in (*first, *later)]
        print(
            f"{count} cells, all but one done: first look {milliseconds[0]} ms, first update "
            f"{milliseconds[1]} ms; later looks {milliseconds[2]} ms, updates {milliseconds[3]} ms"
        )


def fit(options: argparse.Namespace) -> None:
    """What `job=fit` does with a folder of so many records."""
    config = make_config(default_config())
    config = dataclasses.replace(config, fit=dataclasses.replace(config.fit, **options.fit))
    with tempfile.TemporaryDirectory() as name:
        folder, cells = Path(name), plan(options.cells)
        for cell in cells:
            write_record(folder, cell)
        with measured(f"fit and report of {len(cells)} records"):
            fit_and_report(config, folder, cells)
        for path in (folder / "report.html", folder / "laws.json", folder / "curves.csv"):
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")


def rows(options: argparse.Namespace) -> None:
    """A table of so many runs, written and read."""
    rng = np.random.default_rng(0)
    params, tokens = 10 ** rng.uniform(6, 9, options.cells), 10 ** rng.uniform(8, 11, options.cells)
    loss = 1.7 + 400 * params**-0.34 + 1200 * tokens**-0.3
    columns = {
        "cell": [f"run-{number}" for number in range(options.cells)],
        "params": params.round().tolist(),
        "tokens": tokens.round().tolist(),
        "loss": loss.tolist(),
        **{f"extra_{number}": loss.tolist() for number in range(20)},
    }
    with tempfile.TemporaryDirectory() as name:
        for ending in ("csv", "jsonl"):
            path = Path(name) / f"runs.{ending}"
            write_rows(path, columns)
            with measured(f"{ending} of {options.cells} rows, {path.stat().st_size / 1e6:.0f} MB"):
                table = scaling.Table.read(path)
            assert len(table) == options.cells
            del table


def write_rows(path: Path, columns: dict[str, list]) -> None:
    names = list(columns)
    with path.open("w") as file:
        if path.suffix == ".csv":
            file.write(",".join(names) + "\n")
        for row in zip(*columns.values(), strict=True):
            if path.suffix == ".csv":
                file.write(",".join(map(str, row)) + "\n")
            else:
                file.write(json.dumps(dict(zip(names, row, strict=True))) + "\n")


def columns(options: argparse.Namespace) -> None:
    """Tables of a few runs and ever more columns."""
    for count in (options.cells // 10, options.cells):
        names = ["params", "tokens", "loss", *(f"note_{number}" for number in range(count))]
        lines = [",".join(["1e6", "1e8", str(3 + i), *["0.5"] * count]) for i in range(3)]
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "runs.csv"
            path.write_text("\n".join([",".join(names), *lines]) + "\n")
            with measured(f"csv of {count} columns"):
                scaling.prepare(scaling.Table.read(path))


PARTS = {part.__name__: part for part in (schedule, looks, fit, rows, columns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--cells", type=int, default=2000)
    parser.add_argument("--resamples", type=int)
    options = parser.parse_args()
    options.fit = {} if options.resamples is None else {"resamples": options.resamples}
    PARTS[options.part](options)


if __name__ == "__main__":
    main()
