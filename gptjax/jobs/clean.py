"""job=clean: documents of a crawl or an export, cleaned into shards, with a report."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Printed

from gptjax.config import Config
from gptjax.data.clean.config import CleanConfig
from gptjax.data.clean.pipeline import clean
from gptjax.errors import UserError
from gptjax.files import user_path
from gptjax.job import Job


def check(config: Config) -> None:
    """Refuse a job without an input, and stages that are named twice."""
    own: CleanConfig = config.own["clean"]
    if not own.input:
        raise UserError(
            "clean.input='' names no file; give --config.clean.input='crawl/*.jsonl.gz'"
        )
    for name in own.stages:
        if own.stages.count(name) > 1:
            raise UserError(f"clean.stages names {name} twice; name each stage once")


def main(config: Config, folder: Path) -> int:
    """Clean, then write report.html beside the shards; started again, it does what is missing."""
    own: CleanConfig = config.own["clean"]
    output = user_path(own.output) if own.output else folder / "clean"
    result = clean(own, output, lambda words: print(words, flush=True))
    from gptjax.report import cleaning  # matplotlib is slow to import

    page = cleaning.build(output, result)
    _print(result, page)
    return 0


def _print(result: dict[str, Any], page: Path) -> None:
    console = Console(width=100)
    table = Printed("stage", "documents", "bytes", "words", "commonest reason")
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
    return [f"{one[name]:,}" for name in ("documents", "bytes", "words")]


JOB = Job(main, CleanConfig, check)
