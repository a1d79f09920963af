"""Tuning: the best learning rates of a sweep's smallest sizes, and the law through them."""

import dataclasses
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax.config import Config, check_repeats, make_model, of_data
from gptjax.data import Corpus
from gptjax.engines import run, workdir
from gptjax.files import write_json
from gptjax.sweeps import Trial, Tuned, make_trials, open_cells, read_record, tuning


def find(config: Config, folder: Path, corpus: Corpus) -> Tuned | int:
    """Train what has no record yet, write `tune.json`; an exit status when stopped.

    Each widening of the grid has a folder of its own under `folder/tune`.

    Raises:
      UserError: when no size has its best learning rate inside the grid.
    """
    trials: list[Trial] = []
    losses: dict[str, float | None] = {}
    factors = config.sweep.tune_factors
    for number in range(tuning.ROUNDS):
        asked = dataclasses.replace(
            config,
            sweep=dataclasses.replace(config.sweep, tune_factors=factors),
        )
        new = trials_of(asked, corpus)
        status = _train(asked, folder / "tune" / str(number), new)
        if status != 0:
            return status
        for trial in new:
            record = read_record(folder / "tune" / str(number), trial.cell)
            losses[trial.cell.id] = record["loss"] if record["status"] == "done" else None
        trials += new
        factors = tuning.wider(trials, losses)
        if not factors:
            break
    tuned = tuning.find(trials, losses)
    write_json(folder / "tune.json", dataclasses.asdict(tuned) | {"sentence": tuned.sentence})
    show(tuned)
    return tuned


def trials_of(config: Config, corpus: Corpus) -> list[Trial]:
    """The runs of a tuning on a corpus."""
    trials = make_trials(
        config.sweep,
        make_model(config, corpus),
        config.optim,
        config.train,
        corpus.fingerprint,
        **of_data(config, corpus),
    )
    check_repeats(config, corpus, *(trial.cell.run for trial in trials))
    return trials


def _train(config: Config, folder: Path, trials: list[Trial]) -> int:
    cells = [trial.cell for trial in trials]
    left = open_cells(folder, cells)
    if left:
        run.reach_engine(config)
    workdir.open_workdir(config, folder, cells)
    if not left:
        return 0
    print(f"tuning: {len(cells)} runs at {len({trial.params for trial in trials})} sizes")
    return run.train(config, folder, cells)


def show(tuned: Tuned) -> None:
    """Print the best factor of each size, and the law."""
    table = Table(title="Tuning", title_justify="left")
    for name in ("params", "tokens", "batch", "b2", "rule's rate", "best over rule's", "loss"):
        table.add_column(name, justify="right")
    for row in tuned.best:
        best = row["why"] or f"{row['factor']:.3g}"
        loss = "–" if row["why"] else f"{row['loss']:.4f}"
        table.add_row(
            f"{row['params']:,}",
            f"{row['tokens']:,}",
            f"{row['batch']:g}",
            f"{row['b2']:g}",
            f"{row['rule']:.3g}",
            best,
            loss,
        )
    console = Console(width=110)
    console.print(table)
    console.print(tuned.sentence, highlight=False, markup=False)
