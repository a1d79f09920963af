"""job=compare_sweeps: the same sweep with other settings, a law for each, and the laws compared."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gptjax import build, scaling
from gptjax.build import Setup
from gptjax.files import read_json, write_json
from gptjax.jobs import fit, plan, sweep, workdir
from gptjax.jobs.variants import folder_name, variants
from gptjax.report import side_by_side as report
from gptjax.scaling import Fit
from gptjax.scaling.laws import plain
from gptjax.scaling.side_by_side import best_of_budgets, frontier, side_by_side

LINE_POINTS = 60


def main(setup: Setup, folder: Path) -> int:
    """Run every variant's sweep in a folder of its own, then compare their laws.

    Started again, it does what is missing.
    """
    corpus = build.load_corpus(setup)
    asked = variants(setup)
    for variant in asked.values():
        plan.make_cells(variant, corpus)  # refuses a wrong plan before anything is trained
    workdir.open_workdir(setup, folder)
    for label, variant in asked.items():
        print(f"sweep of {label}")
        status = sweep.main(variant, folder / folder_name(label))
        if status != 0:
            return status
    compare(setup, folder, asked)
    return 0


def compare(setup: Setup, folder: Path, asked: Mapping[str, Setup]) -> None:
    """Fit every variant's table, write comparison.json and the page, print the table."""
    laws = {
        label: scaling.fit(
            scaling.Table.read(folder / folder_name(label) / "runs.csv"),
            config=fit.fit_config(variant),
        )
        for label, variant in asked.items()
    }
    content = comparison(laws, setup)
    for label, entry in content["laws"].items():
        entry["seconds"] = seconds_of(folder / folder_name(label))
        entry["settings"] = next(
            text.partition(":")[2].strip()
            for text in setup.compare.sweeps
            if text.partition(":")[0].strip() == label
        )
        entry["report"] = f"{folder_name(label)}/report.html"
    write_json(folder / "comparison.json", content)
    corpus = read_json(folder / folder_name(next(iter(asked))) / "corpus.json")
    page = report.build(
        folder,
        content,
        setup.report,
        title=setup.general.experiment.replace("_", " "),
        facts=corpus,
    )
    Console(width=120).print(report.table(content))
    print(f"report: {page}")


def comparison(laws: Mapping[str, Fit], setup: Setup) -> dict[str, Any]:
    """The content of comparison.json: plain types only."""
    budgets = sorted(set(setup.sweep.budgets))
    beyond = budgets[-1] * setup.fit.extrapolate
    line = np.geomspace(budgets[0], beyond, LINE_POINTS)
    reference = next(iter(laws))
    found: dict[str, Any] = {}
    for label, law in laws.items():
        value, low, high = frontier(law, line)
        found[label] = {
            "runs": len(law.runs),
            "equation": law.form.equation,
            "params": {name: dataclasses.asdict(v) for name, v in law.params.items()},
            "line": {"flops": line, "loss": value, "low": low, "high": high},
            "best": best_of_budgets(law.runs),
            "failed": len(law.left_out),
            "warnings": list(law.warnings),
        }
    standings = side_by_side(laws, [*budgets, beyond])
    return plain(
        {
            "reference": reference,
            "budgets": budgets,
            "beyond": beyond,
            "confidence": setup.fit.confidence,
            "laws": found,
            "standings": [dataclasses.asdict(standing) for standing in standings],
        }
    )


def seconds_of(folder: Path) -> float:
    """Worker seconds of a sweep, its tuning included."""
    files = [*folder.glob("timing/*.json"), *folder.glob("tune/*/timing/*.json")]
    return sum(read_json(path)["seconds"] for path in files)
