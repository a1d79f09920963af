"""job=fit_table: fit any CSV or Parquet of runs, columns mapped by fit.column_*."""

import dataclasses
from pathlib import Path

from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.job import Job
from gptjax.stages import fit


@dataclasses.dataclass(frozen=True)
class Settings:
    """The table that job=fit_table fits."""

    table: str = setting("", "CSV or Parquet of training runs")


def check(config: Config) -> None:
    """Refuse a table that is not there."""
    table = config.own["fit_table"].table
    if not table:
        raise UserError("fit_table.table='' names no table; give --config.fit_table.table=FILE.csv")
    if not user_path(table).is_file():
        raise UserError(f"fit_table.table={table} is not a file; give the path of a CSV or Parquet")


def main(config: Config, folder: Path) -> int:
    """Write laws.json, figures and report.html for the table."""
    fit.laws_of_tables(config, folder, user_path(config.own["fit_table"].table), None)
    return 0


JOB = Job(main, Settings, check)
