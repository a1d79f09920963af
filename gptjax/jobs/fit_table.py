"""job=fit_table: fit any CSV or Parquet of runs, columns mapped by fit.column_*."""

from pathlib import Path

from gptjax.build import Setup
from gptjax.errors import UserError
from gptjax.jobs import fit


def main(setup: Setup, folder: Path) -> int:
    """Write laws.json, figures and report.html for `config.table`."""
    table = Path(setup.general.table)
    if not table.is_file():
        raise UserError(f"config.table={table} is not a file; give the path of a CSV or Parquet")
    fit.laws_of_tables(setup, folder, table, None)
    return 0
