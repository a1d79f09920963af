"""Table of scores: sizes, tokens, and of every task a score and perhaps the loss of its answers."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.tables.table import Table, as_table

CHANCE = {
    **dict.fromkeys(("hellaswag", "arc_easy", "arc_challenge", "openbookqa", "mmlu"), 1 / 4),
    **dict.fromkeys(("piqa", "winogrande", "boolq", "copa"), 1 / 2),
    **{"csqa": 1 / 5, "commonsense_qa": 1 / 5, "socialiqa": 1 / 3, "social_iqa": 1 / 3},
    **dict.fromkeys(("arithmetic", "copying", "completion", "facts"), 1 / 4),
    **{"agreement": 1 / 2, "needle": 1 / 10, "memorization": 0.0},
}
"""Score of one who guesses, on published tasks and on those of `gptjax.evals`."""
FEWEST = 6
PARAMS = ("params", "params_non_embedding_with_head")
"""Columns of sizes: a foreign table's, and that of a sweep's runs.csv."""


@dataclasses.dataclass(frozen=True)
class Scores:
    """Rows of a table of scores, one for each checkpoint.

    Attributes:
      run: number of the run that a row belongs to; runs are what intervals resample.
      params, tokens: counts.
      final: whether the row is the last of its run.
      loss: the model's own loss, NaN where unknown.
      score, task_loss: of each task; the loss of its right answers is NaN where unknown.
      chance: score of a guess, None where unknown.
    """

    run: np.ndarray
    params: np.ndarray
    tokens: np.ndarray
    final: np.ndarray
    loss: np.ndarray
    score: Mapping[str, np.ndarray]
    task_loss: Mapping[str, np.ndarray]
    chance: Mapping[str, float | None]

    def __len__(self) -> int:
        return len(self.run)

    @property
    def flops(self) -> np.ndarray:
        """6·N·D."""
        return 6.0 * self.params * self.tokens

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.score)

    def known(self, task: str) -> "Scores":
        """The rows that have a score of the task."""
        keep = np.isfinite(self.score[task])
        return self if keep.all() else self.take(keep)

    def take(self, keep: np.ndarray) -> "Scores":
        """The rows of a mask, runs numbered again."""
        arrays = ("params", "tokens", "final", "loss")
        rows: dict[str, Any] = {name: getattr(self, name)[keep] for name in arrays}
        for name in ("score", "task_loss"):
            rows[name] = {task: column[keep] for task, column in getattr(self, name).items()}
        run = np.unique(self.run[keep], return_inverse=True)[1]
        return dataclasses.replace(self, run=run, **rows)


def read_scores(
    table: Any,
    tasks: tuple[str, ...] = (),
    *,
    score_suffix: str = "_acc",
    loss_suffix: str = "_bpb",
    loss: str = "",
    chance: Mapping[str, float] | None = None,
    params_above: float = 0.0,
    params_below: float = np.inf,
) -> Scores:
    """Scores from a table in any form that `Table` reads.

    Args:
      table: columns `params`, `tokens`, `<task><score_suffix>`; optional `<task><loss_suffix>`,
        `run` (rows of one name are one run), `final` (1 for the last row of its run; without it the
        row with the most tokens of each run).
      tasks: all that have a column of scores by default.
      loss: column of the model's own loss; by default `loss` or the one that ends in `_loss`.
      chance: score of a guess by task, before those of CHANCE.
      params_above, params_below: rows of other sizes are left out.

    Raises:
      UserError: for a missing column, a score outside 0..1, or too few runs.
    """
    source = as_table(table)
    params, tokens = source.numbers(source.find(*PARAMS)), source.numbers("tokens")
    keep = (params >= params_above) & (params <= params_below) & _scored(source, score_suffix)
    source, params, tokens = source.where(keep), params[keep], tokens[keep]
    for name, counts in (("params", params), ("tokens", tokens)):
        if not np.all(counts > 0):
            raise UserError(f"{source.name} has {name}={counts.min():g}; every count is above 0")
    run = _runs(source)
    final = _final(source, run, tokens)
    if final.sum() < FEWEST:
        raise UserError(
            f"{source.name} has {int(final.sum())} runs with scores, and a forecast needs {FEWEST}"
        )
    score = {
        task: _scores(source, task, score_suffix) for task in _tasks(source, tasks, score_suffix)
    }
    blank = np.full(len(run), np.nan)
    task_loss = {
        task: _positive(source, name) if (name := task + loss_suffix) in source else blank
        for task in score
    }
    own = _own_loss(source, loss)
    known = {**CHANCE, **(chance or {})}
    return Scores(
        run,
        params,
        tokens,
        final,
        _positive(source, own) if own else blank,
        score,
        task_loss,
        {task: known.get(task.partition("@")[0]) for task in score},
    )


def _tasks(source: Table, asked: tuple[str, ...], suffix: str) -> tuple[str, ...]:
    found = tuple(name.removesuffix(suffix) for name in source.columns if name.endswith(suffix))
    for task in asked:
        if task not in found:
            raise UserError(
                f"forecast.tasks={task} has no column {task}{suffix} in {source.name}; "
                f"{nearest(task, found)}"
            )
    if not found:
        raise UserError(
            f"{source.name} has no column that ends in {suffix}; give forecast.score_suffix"
        )
    return asked or found


def _scored(source: Table, suffix: str) -> np.ndarray:
    """Rows with a score: a run that failed has none."""
    names = [name for name in source.columns if name.endswith(suffix)]
    values = [np.isfinite(source.numbers(name)) for name in names]
    return np.any(values, axis=0) if values else np.ones(len(source), bool)


def _scores(source: Table, task: str, suffix: str) -> np.ndarray:
    values = source.numbers(task + suffix)
    bad = np.flatnonzero((values < 0) | (values > 1))
    if len(bad):
        raise UserError(
            f"{source.name} row {source.places[bad[0]]}: {task}{suffix}={values[bad[0]]:g} is "
            "outside 0..1; give scores as shares, not in percent"
        )
    return values


def _positive(source: Table, name: str) -> np.ndarray:
    values = source.numbers(name)
    bad = np.flatnonzero(values <= 0)
    if len(bad):
        raise UserError(
            f"{source.name} row {source.places[bad[0]]}: {name}={values[bad[0]]:g} is no loss; "
            "give positive numbers"
        )
    return values


def _own_loss(source: Table, asked: str) -> str:
    if asked:
        return source.find(asked)
    found = [name for name in source.columns if name == "loss" or name.endswith("_loss")]
    return found[0] if found else ""


def _runs(source: Table) -> np.ndarray:
    if not source.name_column:
        return np.arange(len(source))
    return np.unique(source.text(source.name_column).astype(str), return_inverse=True)[1]


def _final(source: Table, run: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    if "final" in source:
        return source.numbers("final") == 1
    last = np.zeros(run.max(initial=-1) + 1)
    np.maximum.at(last, run, tokens)
    return tokens == last[run]
