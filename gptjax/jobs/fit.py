"""job=fit: collect the tables of a sweep, fit the laws, write laws.json and the report."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gptjax import build, report, scaling, sweeps
from gptjax.build import Setup
from gptjax.errors import UserError, nearest
from gptjax.files import read_json, write_json
from gptjax.jobs import plan, workdir
from gptjax.sweeps import Cell

PHASES = ("compile", "train", "evaluate", "checkpoint")


def main(setup: Setup, folder: Path) -> int:
    """Refit what is there with the `fit` section of the config."""
    made_by = workdir.saved_setup(folder)
    workdir.check_same(setup, folder)
    cells = plan.make_cells(made_by, build.load_corpus(made_by))
    fit_and_report(setup, folder, cells)
    return 0


def fit_and_report(setup: Setup, folder: Path, cells: Sequence[Cell]) -> dict[str, Any]:
    """Tables, laws, figures, report and the answer on standard output.

    Raises:
      UserError: when there is no finished run, or no law can be fitted to those there are.
    """
    if not any(record["status"] == "done" for record in sweeps.read_records(folder, cells)):
        raise UserError(f"--workdir={folder} has no finished run to fit; run job=sweep first")
    sweeps.write_tables(folder, cells)
    return laws_of_tables(setup, folder, folder / "runs.csv", folder / "curves.csv")


def laws_of_tables(
    setup: Setup, folder: Path, runs_path: Path, curves_path: Path | None
) -> dict[str, Any]:
    """Fit a table of runs, write `laws.json` and the report into `folder`, print the answer."""
    config = fit_config(setup)
    runs = scaling.Table.read(runs_path)
    curves = scaling.Table.read(curves_path) if curves_path and curves_path.exists() else None
    laws = scaling.fit_laws(runs, curves, config)
    write_json(folder / "laws.json", laws)
    return show(setup, folder, runs, curves, laws)


def show(setup: Setup, folder: Path, runs: Any, curves: Any, laws: dict[str, Any]) -> dict:
    """Write the report and print the answer."""
    page = report.build(
        folder, runs, curves, laws, setup.report,
        title=setup.general.experiment.replace("_", " "), facts=facts(setup, folder),
    )  # fmt: skip
    print_answer(laws)
    print(f"report: {page}")
    return laws


def fit_config(setup: Setup) -> scaling.FitConfig:
    """The `fit` section with the top-level `forms` added.

    Raises:
      UserError: for a form that is not known.
    """
    forms = tuple(dict.fromkeys((*setup.fit.forms, *setup.general.forms)))
    for name in forms:
        if name not in scaling.FORMS:
            raise UserError(
                f"config.forms has {name!r}, which is no law form; {nearest(name, scaling.FORMS)}"
            )
    return dataclasses.replace(setup.fit, forms=forms)


def facts(setup: Setup, folder: Path) -> dict[str, Any]:
    """What the report says about where the numbers come from."""
    found: dict[str, Any] = {}
    timing = folder / "timing.csv"
    if timing.exists() and timing.read_text().count("\n") > 1:
        table = scaling.Table.read(timing)
        found["timing"] = {phase: float(table.numbers(phase).sum()) for phase in PHASES}
        found["seconds"] = float(sum(found["timing"].values()))
    corpus = folder / "corpus.json"
    if corpus.exists():
        found.update(read_json(corpus))
    return found


def print_answer(laws: dict[str, Any]) -> None:
    """The small table of the answer."""
    console = Console(width=None if sys.stdout.isatty() else 120)
    console.print(report.answer_table(laws))
