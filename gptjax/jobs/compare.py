"""job=compare: train one model with several optimizers, and draw loss against tokens and time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gptjax.config import Config, load_corpus, make_run
from gptjax.data import Corpus
from gptjax.engines import run, workdir
from gptjax.files import read_json, write_json
from gptjax.job import Job
from gptjax.stages.plan import print_plan
from gptjax.stages.sweep import corpus_facts
from gptjax.sweeps import Member, make_comparison, read_record, records, write_tables


def main(config: Config, folder: Path) -> int:
    """Train every member, write compare.json and the figures; started again, do what is missing."""
    corpus = load_corpus(config)
    members = make_comparison(config.compare, make_run(config, corpus), corpus.fingerprint)
    cells = [member.cell for member in members]
    left = records.open_cells(folder, cells)
    if left:
        run.reach_engine(config)
    workdir.open_workdir(config, folder, cells)
    write_json(folder / "corpus.json", corpus_facts(config, corpus))
    if left:
        print_plan(config, cells, folder)
        status = run.train(config, folder, cells)
        if status != 0:
            return status
    write_tables(folder, cells)
    show(config, folder, corpus, members)
    return 0


def show(config: Config, folder: Path, corpus: Corpus, members: Sequence[Member]) -> None:
    """Collect the records, draw, and print the table."""
    from gptjax.report import comparison  # matplotlib is slow to import

    rows = [_row(folder, member) for member in members]
    write_json(folder / "compare.json", {"rows": rows})
    paths = comparison.build(folder, rows, config.report)
    Console(width=110).print(comparison.table(rows))
    print("figures: " + ", ".join(str(path) for path in paths))


def _row(folder: Path, member: Member) -> dict[str, Any]:
    """A record under the names that the drawing reads."""
    spec = member.cell.run
    record = read_record(folder, member.cell)
    timing = folder / "timing" / f"{member.cell.id}.json"
    history = record.get("history", [])
    per_step = spec.batch_size * spec.model.seq_len
    return {
        "label": member.label,
        "learning_rate": member.learning_rate,
        "seed": spec.seed,
        "status": record["status"],
        "loss": record.get("loss"),
        "tokens": [step * per_step for step, _ in history],
        "losses": [loss for _, loss in history],
        "seconds": read_json(timing)["train"] if timing.exists() else None,
        "flops": record["flops"],
    }


JOB = Job(main, one_run=True, many_runs=True, trains=True)
