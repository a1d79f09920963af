"""job=compare: train one model with several optimizers, and draw loss against tokens and time."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from gptjax import build
from gptjax.build import Setup
from gptjax.data import Corpus
from gptjax.files import read_json, write_json
from gptjax.jobs import plan, sweep, workdir
from gptjax.report import comparison
from gptjax.sweeps import Member, record_path, records, write_tables


def main(setup: Setup, folder: Path) -> int:
    """Train every member, write compare.json and the figures; started again, do what is missing."""
    corpus = build.load_corpus(setup)
    members = plan.make_members(setup, corpus)
    cells = [member.cell for member in members]
    left = records.open_cells(folder, cells)
    if left:
        sweep.reach_engine(setup)
    workdir.open_workdir(setup, folder)
    write_json(folder / "corpus.json", sweep.corpus_facts(setup, corpus))
    if left:
        plan.print_plan(setup, cells)
        status = sweep.train(setup, folder, cells)
        if status != 0:
            return status
    write_tables(folder, cells)
    show(setup, folder, corpus, members)
    return 0


def show(setup: Setup, folder: Path, corpus: Corpus, members: Sequence[Member]) -> None:
    """Collect the records, draw, and print the table."""
    rows = [_row(folder, member) for member in members]
    write_json(folder / "compare.json", {"rows": rows})
    paths = comparison.build(folder, rows, setup.report)
    Console(width=110).print(comparison.table(rows))
    print("figures: " + ", ".join(str(path) for path in paths))


def _row(folder: Path, member: Member) -> dict[str, Any]:
    """What a record says, under names that the drawing reads."""
    run = member.cell.run
    record = read_json(record_path(folder, member.cell))
    timing = folder / "timing" / f"{member.cell.id}.json"
    history = record.get("history", [])
    per_step = run.batch_size * run.model.seq_len
    return {
        "label": member.label,
        "learning_rate": member.learning_rate,
        "seed": run.seed,
        "status": record["status"],
        "loss": record.get("loss"),
        "tokens": [step * per_step for step, _ in history],
        "losses": [loss for _, loss in history],
        "seconds": read_json(timing)["train"] if timing.exists() else None,
        "flops": record["flops"],
    }
