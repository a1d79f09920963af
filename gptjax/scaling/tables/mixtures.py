"""Tables of mixtures: weights of sources in a row, and the losses that they gave."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.tables.table import Table

ROUNDED = 0.02
"""How far from 1 rounded weights may sum."""


@dataclasses.dataclass(frozen=True)
class MixtureRuns:
    """Mixtures and losses, one run a row.

    Attributes:
      sources: names, without the prefix of their columns.
      weights_RK: rows sum to 1.
      losses: nats of the runs, by target.
      params: model sizes, where the table has them.
    """

    sources: tuple[str, ...]
    weights_RK: np.ndarray
    losses: dict[str, np.ndarray]
    params: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.weights_RK)


def read_mixtures(
    table: str,
    losses: str,
    *,
    key: str,
    prefix: str,
    targets: Sequence[str],
    params: str = "",
) -> MixtureRuns:
    """The runs of one table, or of two that are joined by `key` or row by row.

    Raises:
      UserError: for missing files and columns, rows without a partner, and weights that do not sum
        to 1.
    """
    mixtures = Table.read(table)
    found = _joined(mixtures, Table.read(losses), key) if losses else mixtures
    columns = [name for name in mixtures.columns if name.startswith(prefix) and name != key]
    columns = [name for name in columns if name not in targets]
    if len(columns) < 2:
        raise UserError(
            f"{table} has {len(columns)} columns that begin with {prefix!r}, and a mixture has two "
            "or more; name the prefix by mixture_law.weights"
        )
    weights_RK = np.stack([mixtures.numbers(name) for name in columns], axis=1)
    _check_weights(mixtures, weights_RK)
    return MixtureRuns(
        sources=tuple(name.removeprefix(prefix) for name in columns),
        weights_RK=weights_RK / weights_RK.sum(1, keepdims=True),
        losses={name: found.numbers(name) for name in targets},
        params=found.numbers(params) if params else None,
    )


def _joined(mixtures: Table, losses: Table, key: str) -> Table:
    """Both tables' columns in the rows of the first."""
    if not key:
        if len(mixtures) != len(losses):
            raise UserError(
                f"{mixtures.name} has {len(mixtures)} rows and {losses.name} {len(losses)}; name "
                "the column that joins them by mixture_law.key"
            )
        return mixtures.with_columns(losses.columns)
    places = {name: i for i, name in enumerate(losses.text(key))}
    names = mixtures.text(key)
    lost = [name for name in names if name not in places]
    if lost:
        raise UserError(
            f"{losses.name} has no row with {key}={lost[0]}, which {mixtures.name} has; add its "
            "losses or leave the mixture out"
        )
    return mixtures.with_columns(losses.where(np.array([places[n] for n in names])).columns)


def _check_weights(table: Table, weights_RK: np.ndarray) -> None:
    sums = weights_RK.sum(1)
    wrong = ~(np.abs(sums - 1) <= ROUNDED) | (weights_RK < 0).any(1)
    if wrong.any():
        row = int(np.argmax(wrong))
        what = "are empty" if np.isnan(sums[row]) else f"sum to {sums[row]:.4g}"
        if (weights_RK[row] < 0).any():
            what = f"have the negative {weights_RK[row].min():.4g}"
        raise UserError(
            f"{table.name} row {table.places[row]}: the weights {what}; give weights of 0 or more "
            "that sum to 1"
        )
