"""Training curves in long form: several rows a run, of which a law may use the last.

Points of one curve share the run's noise and lie inside its schedule, so they are no further runs.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from gptjax.scaling.tables.column_names import letters_of
from gptjax.scaling.tables.table import Table

RUNS = frozenset(("run", "trial", "experiment", "exp", "job", "cell", "uid", "uuid"))
"""Words of a column that names runs."""
MODELS = frozenset(("id", "name", "model", "series", "label", "version"))
"""Words of a column that may name runs, or a model that was trained several times; `version` counts
the runs of a name in the logs of Lightning."""
OF_RUNS = frozenset(("wandb", "mlflow", "slurm", "training", "train", "display", "full"))
COUNTS = frozenset(("version", "trial"))
"""Words of a column that counts the runs of each name in another."""
WHOLES = frozenset(("experiment", "exp"))
"""Words of RUNS that may name several runs, which another column counts."""
STEPS = frozenset(("step", "steps", "iteration", "iterations", "iter", "iters", "epoch", "update"))
OF_STEPS = frozenset(("global", "train", "training", "trainer", "optimizer", "current"))
FEWEST = 2.0  # rows a run, in the mean, from which on they are a curve


class Names(NamedTuple):
    """The names of runs that repeat in a table.

    Attributes:
      column: the column, or two, that hold them.
      label: the name of each row.
      curves: whether the rows of a name are certainly points of one run.
    """

    column: str
    label: np.ndarray
    curves: bool


def repeated_names(table: Table, params: str, tokens: str) -> Names | None:
    """The names of runs, in one column or two, whose rows may be a curve; None without.

    Rows of one name are a curve where they have one size and different tokens. A name without
    steps beside it may also be that of a model trained several times: not certainly a curve.
    """
    if params not in table or tokens not in table:
        return None
    size, data = table.numbers(params), table.numbers(tokens)
    for columns, label in _labels(table):
        names, which = np.unique(label, return_inverse=True)
        order = np.argsort(which, kind="stable")
        starts = np.searchsorted(which[order], np.arange(len(names)))
        ends = (end.reduceat(size[order], starts) for end in (np.minimum, np.maximum))
        alike = bool(np.all(np.equal(*ends)))
        apart = len(np.unique(np.stack([which, data]), axis=1).T) == len(label)
        if not alike or not apart:
            continue
        many = not _only_a_model(columns[0]) and len(label) >= FEWEST * len(names)
        certain = (many or _has_steps(table, columns[0])) and _steps_grow(table, which, data)
        if len(columns) == 1 or certain:
            return Names(" and ".join(columns), label, certain)
    return None


def _labels(table: Table) -> Iterator[tuple[tuple[str, ...], np.ndarray]]:
    """Columns whose names of runs repeat, with the name of each row.

    First two together, where one counts the runs of the other (`version` those of each `name`),
    then those of runs, then those of models.
    """
    text: dict[str, np.ndarray] = {}
    for column in sorted(filter(_names_runs, table.columns), key=_only_a_model):
        label = table.text(column).astype(str)
        if 2 <= len(np.unique(label)) < len(label):
            text[column] = label
    for name, count in itertools.permutations(text, 2):
        if not set(letters_of(name)) & RUNS - WHOLES and set(letters_of(count)) & COUNTS:
            both = np.char.add(np.char.add(text[name], " "), text[count])
            if len(np.unique(both)) < len(both):
                yield (name, count), both
    yield from (((column,), label) for column, label in text.items())


def unmeasured(table: Table, params: str, tokens: str, loss: str) -> np.ndarray:
    """Mask of rows without a loss whose run has one at as many tokens or more.

    Loggers write a row for each metric, or each step, and evaluate at some. A run whose last rows
    have no loss may have diverged, and keeps them.
    """
    none = np.zeros(len(table), bool)
    if not {params, tokens, loss} <= set(table.columns):
        return none
    values, data = table.numbers(loss), table.numbers(tokens)
    missing = np.isnan(values) & np.isfinite(data)
    for columns, label in _labels(table) if missing.any() else ():
        names, which = np.unique(label, return_inverse=True)
        if _has_steps(table, columns[0]):
            reached = np.full(len(names), -np.inf)
            np.maximum.at(reached, which, np.where(np.isnan(values), -np.inf, data))
            return missing & (data <= reached[which])
    return none


def _names_runs(column: str) -> bool:
    words = set(letters_of(column))
    return bool(words & (RUNS | MODELS)) and words <= RUNS | MODELS | OF_RUNS


def _only_a_model(column: str) -> bool:
    words = set(letters_of(column))
    return not words & RUNS and words != {"id"}


def _has_steps(table: Table, column: str) -> bool:
    """Whether a column of steps says that rows of one name in `column` are points of one run.

    Beside the name of a model, `steps` may be those of each run of a grid.
    """
    steps = [name for name in table.columns if _is_step(name)]
    return any(not _only_a_model(column) or not name.lower().endswith("s") for name in steps)


def _steps_grow(table: Table, which: np.ndarray, data: np.ndarray) -> bool:
    """Whether steps grow with the tokens of every name; where not, a name has several runs."""
    order = np.lexsort((data, which))
    same = np.diff(which[order]) == 0
    for name in filter(_is_step, table.columns):
        steps = table.columns[name]
        if steps.dtype.kind == "f" and np.any(same & (np.diff(steps[order]) < 0)):
            return False
    return True


def _is_step(column: str) -> bool:
    words = set(letters_of(column))
    return bool(words & STEPS) and words <= STEPS | OF_STEPS


def last_points(label: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Mask of the row with the most tokens of every name."""
    which = np.unique(label, return_inverse=True)[1]
    order = np.lexsort((data, which))
    last = np.flatnonzero(np.append(np.diff(which[order]) != 0, True))
    return np.isin(np.arange(len(label)), order[last])
