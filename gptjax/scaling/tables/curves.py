"""Training curves in long form: several rows a run, of which a law may use the last.

Points of one curve share the run's noise and lie inside its schedule, so they are no further runs.
"""

import numpy as np

from gptjax.scaling.tables.column_names import letters_of
from gptjax.scaling.tables.table import Table

RUNS = frozenset(("run", "trial", "experiment", "exp", "job", "cell", "uid", "uuid"))
"""Words of a column that names runs."""
MODELS = frozenset(("id", "name", "model", "series", "label"))
"""Words of a column that may name runs, or a model that was trained several times."""
OF_RUNS = frozenset(("wandb", "mlflow", "slurm", "training", "train", "display", "full"))
STEPS = frozenset(("step", "steps", "iteration", "iterations", "iter", "iters", "epoch", "update"))
OF_STEPS = frozenset(("global", "train", "training", "trainer", "optimizer", "current"))
FEWEST = 2.0  # rows a run, in the mean, from which on they are a curve


def curve_column(table: Table, params: str, tokens: str) -> tuple[str, bool]:
    """(column that names runs and repeats, whether its rows are curves); ('', False) without one.

    Rows of one name are a curve where they have one size and different tokens. A name without
    steps beside it may also be that of a model trained several times: not certainly a curve.
    """
    if params not in table or tokens not in table:
        return "", False
    for column in sorted(filter(_names_runs, table.columns), key=_only_a_model):
        label = table.text(column)
        names, which = np.unique(label.astype(str), return_inverse=True)
        if len(names) == len(label) or len(names) < 2:
            continue
        size, data = table.numbers(params), table.numbers(tokens)
        order = np.argsort(which, kind="stable")
        starts = np.searchsorted(which[order], np.arange(len(names)))
        ends = (end.reduceat(size[order], starts) for end in (np.minimum, np.maximum))
        alike = bool(np.all(np.equal(*ends)))
        apart = len(np.unique(np.stack([which, data]), axis=1).T) == len(label)
        if not alike or not apart:
            continue
        many = not _only_a_model(column) and len(label) >= FEWEST * len(names)
        return column, many or _has_steps(table, column)
    return "", False


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
    for column in sorted(filter(_names_runs, table.columns), key=_only_a_model):
        names, which = np.unique(table.text(column).astype(str), return_inverse=True)
        if missing.any() and 2 <= len(names) < len(table) and _has_steps(table, column):
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


def _is_step(column: str) -> bool:
    words = set(letters_of(column))
    return bool(words & STEPS) and words <= STEPS | OF_STEPS


def last_points(table: Table, column: str, tokens: str) -> np.ndarray:
    """Mask of the row with the most tokens of every name."""
    which = np.unique(table.text(column).astype(str), return_inverse=True)[1]
    data = table.numbers(tokens)
    order = np.lexsort((data, which))
    last = np.flatnonzero(np.append(np.diff(which[order]) != 0, True))
    return np.isin(np.arange(len(table)), order[last])
