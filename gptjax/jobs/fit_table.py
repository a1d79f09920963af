"""job=fit_table: fit any CSV or Parquet of runs, columns mapped by fit.column_*."""

from pathlib import Path

from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.stages import fit


def main(config: Config, folder: Path) -> int:
    """Write laws.json, figures and report.html for `config.table`."""
    table = Path(config.general.table)
    if not table.is_file():
        raise UserError(f"config.table={table} is not a file; give the path of a CSV or Parquet")
    fit.laws_of_tables(config, folder, table, None)
    return 0
