"""job=clean: documents of a crawl or an export, cleaned into shards, with a report."""

import dataclasses
import importlib
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from gptjax.config import Config
from gptjax.data.clean.config import CleanConfig
from gptjax.data.clean.pipeline import clean
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.job import Job
from gptjax.sweeps.config import ENGINES

UNITS = ("documents", "bytes", "words", "tokens")


@dataclasses.dataclass(frozen=True)
class Settings(CleanConfig):
    """What job=clean reads, does and writes, and where its tasks are done."""

    engine: str = setting(
        "local",
        "local: tasks in clean.workers processes of this machine; ray: as tasks of a Ray cluster "
        "whose nodes see the same folders (extra gptjax[ray])",
        choices=ENGINES,
    )
    address: str = setting(
        "auto",
        "cluster of clean.engine=ray: HOST:PORT; auto = RAY_ADDRESS or the one that runs on this "
        "machine; local = one started for this job",
    )


def check(config: Config) -> None:
    """Refuse a job without an input, and stages that are named twice."""
    own: Settings = config.own["clean"]
    if not own.input:
        raise UserError(
            "clean.input='' names no file; give --config.clean.input='crawl/*.jsonl.gz'"
        )
    for name in own.stages:
        if own.stages.count(name) > 1:
            raise UserError(f"clean.stages names {name} twice; name each stage once")


def main(config: Config, folder: Path) -> int:
    """Clean, then write report.html beside the shards; started again, it does what is missing."""
    own: Settings = config.own["clean"]
    output = user_path(own.output) if own.output else folder / "clean"
    plain = CleanConfig(**{one.name: getattr(own, one.name) for one in fields(CleanConfig)})
    share_out = importlib.import_module(ENGINES[own.engine]).sharer(own.address, "clean")
    result = clean(plain, output, lambda words: print(words, flush=True), share_out)
    from gptjax.report import cleaning  # matplotlib is slow to import

    page = cleaning.build(output, result)
    _print(result, page)
    return 0


def _print(result: dict[str, Any], page: Path) -> None:
    console = Console(width=100)
    units = [unit for unit in UNITS if unit in result["read"]]
    table = Printed("stage", *units, "commonest reason")
    table.add_row("read", *_numbers(result["read"]), "")
    for stage in result["stages"]:
        reasons = sorted(stage["reasons"].items(), key=lambda one: (-one[1], one[0]))
        words = f"{reasons[0][0]} ({reasons[0][1]:,})" if reasons else ""
        table.add_row(f"− {stage['stage']}", *_numbers(stage), words)
    table.add_row("written", *_numbers(result["written"]), "")
    console.print(table)
    if result["broken"]["count"]:
        places = "; ".join(result["broken"]["places"])
        words = f"{result['broken']['count']} broken records were left out: {places}"
        console.print(words, markup=False, highlight=False, soft_wrap=True)
    console.print(str(page), markup=False, highlight=False, soft_wrap=True)


def _numbers(one: dict[str, int]) -> list[str]:
    return [f"{one[unit]:,}" for unit in UNITS if unit in one]


JOB = Job(main, Settings, check)
