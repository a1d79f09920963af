"""Checks of the `fit` section against the table that a sweep will make, before it is trained."""

from collections.abc import Sequence

from gptjax import scaling
from gptjax.errors import UserError, nearest
from gptjax.scaling.forms import load
from gptjax.scaling.tables.runs import select
from gptjax.sweeps import Cell, records

MEASURED = ("loss", "loss_stderr", "bits_per_byte", "train_loss", "status", "reason")
"""Columns that are known only when cells are trained."""


def check_forms(config: scaling.FitConfig) -> None:
    """Read files of forms and refuse law forms that are not known.

    Raises:
      UserError: for the first of them.
    """
    load(config.form_files)
    wanted = {
        "forms": config.forms,
        "compare": config.compare,
        "chain_form": (config.chain_form,),
        "outputs_form": (config.outputs_form,),
    }
    for key, names in wanted.items():
        for name in names:
            if name not in scaling.FORMS:
                raise UserError(
                    f"fit.{key} has {name!r}, which is no law form; {nearest(name, scaling.FORMS)}"
                )


def check_fit(config: scaling.FitConfig, cells: Sequence[Cell]) -> None:
    """Refuse what the table of these cells will not have.

    Raises:
      UserError: for an unknown form or column, or conditions that leave no cell.
    """
    check_forms(config)
    rows = [{**dict.fromkeys(records.RUN_COLUMNS, 1.0), **records.describe(one)} for one in cells]
    table = scaling.Table.from_records(
        [{name: row[name] for name in records.RUN_COLUMNS} for row in rows], "runs.csv"
    )
    for what in ("params", "tokens", "loss", "flops", "budget", "group"):
        _check_column(table, f"column_{what}", getattr(config, f"column_{what}"))
    for key in ("settings", "chained", "outputs"):
        for name in getattr(config, key):
            _check_column(table, key, name)
    planned = [
        condition
        for condition in filter(None, config.where.split(","))
        if not condition.strip().startswith(MEASURED)
    ]
    select(table, ",".join(planned))


def _check_column(table: scaling.Table, key: str, name: str) -> None:
    if name and name not in table:
        raise UserError(
            f"fit.{key}={name} is no column of the runs of a sweep; {nearest(name, table.columns)}"
        )
