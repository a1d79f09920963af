"""Tables of runs: columns read from CSV or Parquet, from anybody's training, checked on request."""

import csv
import dataclasses
import math
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Table:
    """Named columns of equal length: float64 where every cell is a number or empty, else text.

    >>> table = Table.from_records([{"params": 1e6, "loss": 3.0}, {"params": 2e6, "loss": 2.5}])
    >>> table.numbers("loss").tolist()
    [3.0, 2.5]
    """

    columns: Mapping[str, np.ndarray]
    name: str = "table"

    def __post_init__(self):
        lengths = {len(column) for column in self.columns.values()}
        if len(lengths) > 1:
            raise UserError(f"{self.name} has columns of different lengths {sorted(lengths)}")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))

    def __contains__(self, column: str) -> bool:
        return column in self.columns

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any], name: str = "table") -> "Table":
        """From a mapping of sequences (a dict of lists or arrays, a pandas frame)."""
        return cls({str(k): _column(columns[k]) for k in columns}, name)

    @classmethod
    def from_records(cls, records: Iterable[Mapping[str, Any]], name: str = "table") -> "Table":
        """From one mapping a run; keys that a run lacks are empty there."""
        rows = list(records)
        names = list(dict.fromkeys(key for row in rows for key in row))
        return cls({key: _column([row.get(key) for row in rows]) for key in names}, name)

    @classmethod
    def from_csv(cls, path: str | pathlib.Path) -> "Table":
        """From a CSV file with a header line; raises UserError when it cannot be read."""
        path = pathlib.Path(path)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                rows = [row for row in csv.reader(file) if row]
        except UnicodeDecodeError:
            raise UserError(f"table={path} is not UTF-8 text; save it as CSV in UTF-8") from None
        except (OSError, csv.Error) as error:
            raise UserError(f"table={path} cannot be read ({_reason(error)})") from None
        if len(rows) < 2:
            raise UserError(f"table={path} has no rows; give a header line and a line for each run")
        header, body = [name.strip() for name in rows[0]], rows[1:]
        twice = sorted({name for name in header if header.count(name) > 1})
        if twice:
            raise UserError(f"table={path} has two columns named {twice[0]}; rename one")
        for number, row in enumerate(body, start=2):
            if len(row) != len(header):
                raise UserError(
                    f"table={path} line {number} has {len(row)} cells where the header has "
                    f"{len(header)}; check its commas"
                )
        return cls({n: _column([r[i] for r in body]) for i, n in enumerate(header)}, str(path))

    @classmethod
    def from_parquet(cls, path: str | pathlib.Path) -> "Table":
        """From a Parquet file; needs the pyarrow package."""
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise UserError(
                f"table={path} is Parquet, which needs pyarrow; pip install pyarrow, or give a CSV"
            ) from None
        try:
            content = parquet.read_table(path).to_pydict()
        except Exception as error:
            raise UserError(f"table={path} cannot be read as Parquet ({_reason(error)})") from None
        return cls({k: _column(v) for k, v in content.items()}, str(path))

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "Table":
        """From a file, by its ending: .parquet and .pq, else CSV."""
        path = pathlib.Path(path)
        if not path.is_file():
            raise UserError(f"table={path} is not a file; give the path of a CSV or Parquet file")
        if path.suffix.lower() in (".parquet", ".pq"):
            return cls.from_parquet(path)
        return cls.from_csv(path)

    def to_csv(self, path: str | pathlib.Path) -> None:
        """Write with a header line; numbers keep every digit, empty cells stay empty."""
        with pathlib.Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(self.columns)
            for i in range(len(self)):
                writer.writerow([_cell(column[i]) for column in self.columns.values()])

    def where(self, keep: np.ndarray) -> "Table":
        """The rows where `keep` (mask or indices) says so."""
        return Table({name: column[keep] for name, column in self.columns.items()}, self.name)

    def find(self, *names: str, what: str = "") -> str:
        """The first of `names` that is a column; raises UserError with the nearest otherwise."""
        for name in names:
            if name in self.columns:
                return name
        hint = nearest(names[0], self.columns)
        setting = f"; or name it by column_{what}" if what else ""
        raise UserError(f"{self.name} has no column {' or '.join(names)}; {hint}{setting}")

    def text(self, column: str) -> np.ndarray:
        """A column as strings."""
        return np.array([_cell(value) for value in self.columns[self.find(column)]], dtype=object)

    def numbers(self, column: str) -> np.ndarray:
        """A column as float64, empty cells as NaN; raises UserError at the first text."""
        values = self.columns[self.find(column)]
        if values.dtype.kind == "f":
            return values
        for row, value in enumerate(values, start=1):
            if _number(value) is None:
                raise UserError(
                    f"{self.name} row {row}: {column}={value!r} is not a number; correct the cell"
                )
        return np.array([_number(value) for value in values], dtype=np.float64)


def as_table(table: Table | Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | pathlib.Path):
    """A Table from whatever a caller has: a Table, columns, records, or a path."""
    if isinstance(table, Table):
        return table
    if isinstance(table, str | pathlib.Path):
        return Table.read(table)
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        return Table.from_columns(table)  # type: ignore[arg-type]
    return Table.from_records(table)


def _column(values: Iterable[Any]) -> np.ndarray:
    cells = list(values)
    numbers = [_number(value) for value in cells]
    if all(number is not None for number in numbers):
        return np.array(numbers, dtype=np.float64)
    return np.array(["" if cell is None else cell for cell in cells], dtype=object)


def _number(value: Any) -> float | None:
    """A float, NaN for an empty cell, None for text."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        value = value.strip()
        if not value:
            return math.nan
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(float(value))
    return str(value)


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error).splitlines()[0]
