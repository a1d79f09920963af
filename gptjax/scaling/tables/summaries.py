"""Summary rows: means and totals that a spreadsheet or a data frame adds below the runs."""

import numpy as np

from gptjax.scaling.tables.table import Table

WORDS = frozenset(
    (
        *("mean", "average", "avg", "median", "total", "totals", "grand total", "subtotal", "sum"),
        *("std", "stdev", "std dev", "min", "minimum", "max", "maximum", "count", "mittelwert"),
    )
)
NEAR = 1e-3  # relative: a summary may be rounded
FEWEST = 4  # rows above a summary that is known by its numbers


def summary_rows(table: Table) -> dict[int, str]:
    """What is said of each row that summarises others, by its number.

    A row is one by its name, or where it is the last and every column holds the mean, or the sum,
    of the rows above it.
    """
    found = _by_name(table)
    last = len(table) - 1
    if not found and last >= FEWEST:
        what = _by_numbers(table)
        found = {last: what} if what else {}
    return found


def _by_name(table: Table) -> dict[int, str]:
    texts = [name for name, column in table.columns.items() if column.dtype.kind != "f"]
    for name in dict.fromkeys((*texts[:1], table.name_column)):
        cells = [str(cell).strip().lower().rstrip(":") for cell in table.text(name)] if name else []
        found = {i: cell for i, cell in enumerate(cells) if cell in WORDS}
        if found and 2 * len(found) < len(cells):
            return found
    return {}


def _by_numbers(table: Table) -> str:
    """'mean' or 'sum' where the last row is that of the others in all that is not constant."""
    columns = [column for column in table.columns.values() if column.dtype.kind == "f"]
    columns = [c for c in columns if np.all(np.isfinite(c)) and np.ptp(c[:-1]) > 0]
    if len(columns) < 2:
        return ""
    for name, share in (("mean", 1 / (len(table) - 1)), ("sum", 1.0)):
        if all(abs(c[-1] - share * c[:-1].sum()) <= NEAR * abs(c[-1]) for c in columns):
            return name
    return ""
