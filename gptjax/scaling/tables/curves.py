"""Training curves in long form: several rows a run, of which a law may use the last.

Points of one curve share the run's noise and lie inside its schedule, so they are no further runs.
"""

import numpy as np

from gptjax.scaling.tables.table import Table

RUNS = ("cell", "run", "run_id", "run_name", "id", "trial", "uid", "Run", "Run ID", "name", "Name")
STEPS = ("step", "steps", "iteration", "iter", "_step", "global_step", "Step", "epoch")
FEWEST = 2.0  # rows a run, in the mean, from which on they are a curve


def curve_column(table: Table, params: str, tokens: str) -> tuple[str, bool]:
    """(column that names runs and repeats, whether its rows are curves); ('', False) without one.

    Rows of one name are a curve where they have one size and different tokens. A name without
    steps beside it may also be that of a model trained several times: not certainly a curve.
    """
    for column in RUNS:
        if column not in table or params not in table or tokens not in table:
            continue
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
        steps = any(name in table for name in STEPS)
        certain = steps or (
            not column.lower().startswith("name") and len(label) >= FEWEST * len(names)
        )
        return column, certain
    return "", False


def last_points(table: Table, column: str, tokens: str) -> np.ndarray:
    """Mask of the row with the most tokens of every name."""
    which = np.unique(table.text(column).astype(str), return_inverse=True)[1]
    data = table.numbers(tokens)
    order = np.lexsort((data, which))
    last = np.flatnonzero(np.append(np.diff(which[order]) != 0, True))
    return np.isin(np.arange(len(table)), order[last])
