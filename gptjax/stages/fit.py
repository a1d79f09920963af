"""Fit of a sweep: its tables collected, laws fitted, laws.json and the report written."""

import contextlib
import hashlib
import importlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

import gptjax
from gptjax import report, scaling, sweeps
from gptjax.config import Config, enable_compilation_cache
from gptjax.engines.devices import compute_on_cpu
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.identity import digest
from gptjax.processes import Copy, LostCopy, in_processes, may_copy
from gptjax.report.numbers import duration_text
from gptjax.sweeps import Cell

PHASES = ("compile", "train", "evaluate", "checkpoint")


def fit_and_report(
    config: Config, folder: Path, cells: Sequence[Cell], *, reuse: bool = False
) -> None:
    """Tables, laws, figures, report and the answer on standard output.

    With `reuse`, a fit of the same tables with the same settings is shown and not made again.

    Raises:
      UserError: when there is no finished run, or no law can be fitted to those there are.
    """
    found = sweeps.read_records(folder, cells)
    for line in sweeps.failures(found):
        print(line)
    done = [record for record in found if record["status"] == "done"]
    if not done:
        raise UserError(f"--workdir={folder} has no finished run to fit; run job=sweep first")
    _check_environments(config, folder, done)
    sweeps.write_tables(folder, cells, found)
    stamp_path, stamp = folder / "fit.json", _inputs(config, folder)
    made = (stamp_path, folder / "laws.json", folder / "report.html")
    if reuse and all(path.exists() for path in made) and _is_of(read_json(stamp_path), stamp):
        print_answer(read_laws(folder / "laws.json"))
        print(f"report: {folder / 'report.html'}")
        return
    stamp_path.unlink(missing_ok=True)
    laws_of_tables(config, folder, folder / "runs.csv", folder / "curves.csv")
    laws = {"laws": _sha256(folder / "laws.json"), "made_by": sweeps.environment()}
    write_json(stamp_path, {**stamp, **laws})


def read_laws(path: Path) -> Any:
    """The content of a `laws.json`.

    Raises:
      UserError: where it is not what the fit wrote, whose `fit.json` lies beside it.
    """
    content, stamp = read_json(path), path.with_name("fit.json")
    found = read_json(stamp) if path.name == "laws.json" and stamp.exists() else {}
    if isinstance(found, dict) and found.get("laws", _sha256(path)) != _sha256(path):
        raise UserError(
            f"{path} was changed after it was written (fit.json has another checksum); run "
            "job=fit again, or read a copy of it in another folder"
        )
    return content


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_of(found: Any, stamp: dict[str, str]) -> bool:
    """Whether a `fit.json` says that the fit was made of these inputs."""
    return isinstance(found, dict) and all(found.get(name) == stamp[name] for name in stamp)


def _check_environments(config: Config, folder: Path, done: Sequence[dict[str, Any]]) -> None:
    """Say where the cells were trained, if not all alike.

    Raises:
      UserError: where their numbers differ by more than the last digits.
    """
    made_by = [record["made_by"] for record in done if "made_by" in record]
    kinds = sweeps.kinds(made_by)
    if len(kinds) > 1:
        words = ", ".join(f"{count} by {kind}" for kind, count in kinds.most_common())
        if not config.sweep.mixed:
            raise UserError(
                f"--workdir={folder} holds cells trained in environments whose numbers differ "
                f"({words}); train all in one, or fit them together with "
                "--config.sweep.mixed=true"
            )
        print(f"cells of environments whose numbers differ are fitted together: {words}")
    for name, values in sweeps.differences(made_by).items():
        print(f"cells were trained with {name} {' and '.join(values)}; their last digits differ")


def _inputs(config: Config, folder: Path) -> dict[str, str]:
    """The inputs of a fit and its report."""
    tables = b"".join((folder / name).read_bytes() for name in ("runs.csv", "curves.csv"))
    return {
        "tables": hashlib.sha256(tables).hexdigest(),
        "fit": digest(config.fit),
        "report": digest(config.report),
        "version": gptjax.__version__,
    }


def laws_of_tables(
    config: Config, folder: Path, runs_path: Path, curves_path: Path | None
) -> dict[str, Any]:
    """Fit a table of runs, write `laws.json` and the report into `folder`, print the answer."""
    compute_on_cpu()
    enable_compilation_cache(config)
    with _report_maker() as build:
        runs = scaling.Table.read(runs_path)
        curves = scaling.Table.read(curves_path) if curves_path and curves_path.exists() else None
        with progress_bar(f"fitting {len(runs):,} runs") as watch:
            laws = scaling.fit_laws(runs, curves, config.fit, watch=watch, spread=in_processes)
        write_json(folder / "laws.json", laws)
        return show(config, folder, runs, curves, laws, build=build)


def _build(*arguments: Any, **named: Any) -> Path:
    """The report, its figures drawn on every core."""
    return report.build(*arguments, spread=in_processes, **named)


@contextlib.contextmanager
def _report_maker() -> Iterator[Callable[..., Path]]:
    """What makes a report: a copy of this process, which loads Matplotlib while laws are fitted."""
    if not may_copy():
        yield _build
        return
    with Copy(_build_beside) as copy:

        def build(*arguments: Any, **named: Any) -> Path:
            copy.send((arguments, named))
            try:
                return copy.result()
            except LostCopy:
                return _build(*arguments, **named)

        yield build


def _build_beside(receive: Callable[[], Any]) -> Path:
    """The report of what is received, in a copy of the process that fits."""
    importlib.import_module("gptjax.report.html")  # with Matplotlib
    arguments, named = receive()
    return _build(*arguments, **named)


@contextlib.contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A bar on the terminal's standard error while a fit runs; nothing where it is no terminal."""
    bar = Progress(
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        auto_refresh=False,  # by a thread, which would forbid copies of the process
    )
    with bar:
        task = bar.add_task(text, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total, refresh=True)


def show(
    config: Config,
    folder: Path,
    runs: Any,
    curves: Any,
    laws: dict[str, Any],
    *,
    build: Callable[..., Path] = _build,
) -> dict:
    """Write the report and print the answer."""
    page = build(
        folder,
        runs,
        curves,
        laws,
        config.report,
        title=config.general.experiment.replace("_", " "),
        facts=facts(config, folder),
    )
    print_answer(laws)
    print(f"report: {page}")
    return laws


def facts(config: Config, folder: Path) -> dict[str, Any]:
    """The report's facts about the origin of its numbers."""
    found: dict[str, Any] = {}
    timing = folder / "timing.csv"
    if timing.exists() and timing.read_text().count("\n") > 1:
        found["timing"] = spent_by_bundle(scaling.Table.read(timing))
        spent = duration_text(sum(sum(row["seconds"].values()) for row in found["timing"]))
        found["worker time"] = f"{spent} of worker time"
    if (folder / "tune.json").exists():
        found["tuning"] = f"tuned: {read_json(folder / 'tune.json')['sentence']}"
    corpus = folder / "corpus.json"
    if corpus.exists():
        known = read_json(corpus)
        found["corpus"] = known.pop("corpus")
        found.update({name: f"{value} {name}" for name, value in known.items()})
    return found


def spent_by_bundle(timing: scaling.Table) -> list[dict[str, Any]]:
    """Seconds of each phase by bundle, costliest first, and what the workers did not use.

    A worker is idle between its cells, and from its last one until the last of all ends.
    `products` of a row are the seconds that its products take at the rate of the worker's best
    one; NaN where that was not measured.
    """
    bundles, workers = timing.text("bundle"), timing.text("worker")
    width, ended, seconds = (timing.numbers(name) for name in ("width", "ended", "seconds"))
    products = _product_seconds(timing)
    rows: list[dict[str, Any]] = []
    for name in dict.fromkeys(bundles):
        mine = bundles == name
        rows.append(
            {
                "name": f"width {width[mine][0]:.0f}",
                "cells": int(mine.sum()),
                "seconds": {p: float(timing.numbers(p)[mine].sum()) for p in PHASES},
                "products": float(products[mine].sum()),
            }
        )
    rows.sort(key=lambda row: -sum(row["seconds"].values()))
    spans = [ended.max() - (ended - seconds)[workers == name].min() for name in set(workers)]
    idle = max(0.0, float(sum(spans) - seconds.sum()))
    return [*rows, {"name": "no cell at hand", "cells": 0, "seconds": {"idle": idle}}]


def _product_seconds(timing: scaling.Table) -> np.ndarray:
    """FLOPs of each cell's updates over the rate of its worker's best product, or NaN."""
    flops = timing.numbers("flops_per_s") * timing.numbers("train")
    unknown = np.full_like(flops, np.nan)
    if "product_flops_per_s" not in timing:
        return unknown
    best = timing.numbers("product_flops_per_s")
    return np.divide(flops, best, out=unknown, where=best > 0.0)


def print_answer(laws: dict[str, Any]) -> None:
    """The verdict, the small table of the answer, and every note."""
    report.print_answer(laws, Console(width=None if sys.stdout.isatty() else 120))
