"""job=compare_sweeps: the same sweep with other settings, a law for each, and the laws compared."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from gptjax import scaling
from gptjax.config import Config, load_corpus
from gptjax.engines import workdir
from gptjax.engines.cells import make_cells
from gptjax.files import read_json, write_json
from gptjax.job import Job
from gptjax.scaling import Fit
from gptjax.scaling.laws.fit_laws import plain
from gptjax.scaling.laws.side_by_side import best_of_budgets, frontier, side_by_side
from gptjax.stages.sweep import run_sweep
from gptjax.stages.variants import folder_name, variants

LINE_POINTS = 60


def main(config: Config, folder: Path) -> int:
    """Run every variant's sweep in a folder of its own, then compare their laws.

    Started again, it does what is missing.
    """
    corpus = load_corpus(config)
    asked = variants(config)
    for variant in asked.values():
        make_cells(variant, corpus)  # refuses a wrong plan before anything is trained
    workdir.open_workdir(config, folder)
    for label, variant in asked.items():
        print(f"sweep of {label}")
        status = run_sweep(variant, folder / folder_name(label))
        if status != 0:
            return status
    compare(config, folder, asked)
    return 0


def compare(config: Config, folder: Path, asked: Mapping[str, Config]) -> None:
    """Fit every variant's table, write comparison.json and the page, print the table."""
    from gptjax.report import side_by_side as report  # matplotlib is slow to import

    laws = {
        label: scaling.fit(
            scaling.Table.read(folder / folder_name(label) / "runs.csv"),
            config=variant.fit,
        )
        for label, variant in asked.items()
    }
    content = comparison(laws, config)
    for label, entry in content["laws"].items():
        entry["seconds"] = seconds_of(folder / folder_name(label))
        entry["settings"] = next(
            text.partition(":")[2].strip()
            for text in config.compare.sweeps
            if text.partition(":")[0].strip() == label
        )
        entry["report"] = f"{folder_name(label)}/report.html"
    write_json(folder / "comparison.json", content)
    corpus = read_json(folder / folder_name(next(iter(asked))) / "corpus.json")
    page = report.build(
        folder,
        content,
        config.report,
        title=config.general.experiment.replace("_", " "),
        facts=corpus,
    )
    Console(width=120).print(report.table(content))
    print(f"report: {page}")


def comparison(laws: Mapping[str, Fit], config: Config) -> dict[str, Any]:
    """The content of comparison.json: plain types only."""
    budgets = sorted(set(config.sweep.budgets))
    beyond = budgets[-1] * config.fit.extrapolate
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
            "confidence": config.fit.confidence,
            "laws": found,
            "standings": [dataclasses.asdict(standing) for standing in standings],
        }
    )


def seconds_of(folder: Path) -> float:
    """Worker seconds of a sweep, its tuning included."""
    files = [*folder.glob("timing/*.json"), *folder.glob("tune/*/timing/*.json")]
    return sum(read_json(path)["seconds"] for path in files)


JOB = Job(main, many_runs=True, trains=True)
