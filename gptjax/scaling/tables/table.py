"""Tables of runs: columns read from CSV, JSON lines or Parquet, checked on request."""

import csv
import dataclasses
import io
import json
import math
import pathlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.files import user_path, write_atomic
from gptjax.scaling.tables import dialects
from gptjax.scaling.tables.dialects import reason_of

NAMES = ("cell", "name", "run", "Name", "Run")  # columns that may hold the name of a run


@dataclasses.dataclass(frozen=True)
class Table:
    """Named columns of equal length: float64 where every cell is a number or empty, else text.

    >>> table = Table.from_records([{"params": 1e6, "loss": 3.0}, {"params": 2e6, "loss": 2.5}])
    >>> table.numbers("loss").tolist()
    [3.0, 2.5]
    """

    columns: Mapping[str, np.ndarray]
    name: str = "table"
    rows: np.ndarray | None = None
    """Numbers of the rows in sentences: those that a spreadsheet shows; None: counted from 1."""

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
        """From a CSV file with a header line, in any dialect; raises UserError otherwise."""
        sheet = dialects.read_csv(pathlib.Path(path))
        return cls(_collect(sheet.parts), str(path), np.array(sheet.rows))

    @classmethod
    def from_json_lines(cls, path: str | pathlib.Path) -> "Table":
        """From one JSON object a line, nested objects as `outer.inner`."""
        places: list[int] = []

        def parts() -> Iterator[dict[str, list[Any]]]:
            places.clear()
            for part in dialects.in_parts(_json_rows(pathlib.Path(path))):
                places.extend(place for place, _ in part)
                names = dict.fromkeys(key for _, row in part for key in row)
                yield {name: [row.get(name) for _, row in part] for name in names}

        columns = _collect(parts)
        if not places:
            raise UserError(f"table={path} has no rows; give one JSON object for each run")
        return cls(columns, str(path), np.array(places))

    @classmethod
    def from_parquet(cls, path: str | pathlib.Path) -> "Table":
        """From a Parquet file; needs the pyarrow package."""
        try:
            import pyarrow.parquet as parquet
        except ImportError:
            raise UserError(
                f"table={path} is Parquet, which needs pyarrow; pip install pyarrow, or give a CSV"
            ) from None

        def parts() -> Iterator[dict[str, list[Any]]]:
            with parquet.ParquetFile(path) as file:
                yield {name: [] for name in file.schema_arrow.names}
                for batch in file.iter_batches(batch_size=dialects.PART):
                    yield batch.to_pydict()

        try:
            return cls(_collect(parts), str(path))
        except Exception as error:
            raise UserError(
                f"table={path} cannot be read as Parquet ({reason_of(error)})"
            ) from None

    @classmethod
    def from_json(cls, path: str | pathlib.Path) -> "Table":
        """From a JSON file: a list of objects, or an object of columns."""
        try:
            found = json.loads(pathlib.Path(path).read_bytes())
        except (OSError, ValueError, RecursionError) as error:
            raise UserError(f"table={path} cannot be read as JSON ({reason_of(error)})") from None
        if isinstance(found, dict):
            columns = _by_index(found, path)
            if columns and all(isinstance(column, list) for column in columns.values()):
                return cls.from_columns(columns, str(path))
        if isinstance(found, list) and found and all(isinstance(row, dict) for row in found):
            return cls.from_records(map(_flat, found), str(path))
        raise UserError(
            f"table={path} is no list of JSON objects and no object of columns; give one object "
            "for each run"
        )

    @classmethod
    def read(cls, path: str | pathlib.Path) -> "Table":
        """From a file, by its ending: .parquet and .pq, .jsonl and .ndjson, .json, else CSV."""
        path = user_path(path)
        if not path.is_file():
            raise UserError(f"table={path} is not a file; give the path of a CSV or Parquet file")
        if path.suffix.lower() in (".jsonl", ".ndjson"):
            return cls.from_json_lines(path)
        if path.suffix.lower() == ".json":
            return cls.from_json(path)
        if path.suffix.lower() in (".parquet", ".pq") or _is_parquet(path):
            return cls.from_parquet(path)
        return cls.from_csv(path)

    def to_csv(self, path: str | pathlib.Path) -> None:
        """Write with a header line; numbers keep every digit, empty cells stay empty."""
        out = io.StringIO(newline="")
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(self.columns)
        for i in range(len(self)):
            writer.writerow([_cell(column[i]) for column in self.columns.values()])
        write_atomic(pathlib.Path(path), out.getvalue())

    def where(self, keep: np.ndarray) -> "Table":
        """The rows where `keep` (mask or indices) says so."""
        columns = {name: column[keep] for name, column in self.columns.items()}
        return Table(columns, self.name, self.places[keep])

    def with_columns(self, columns: Mapping[str, np.ndarray]) -> "Table":
        """The same rows with further columns, or others in the place of some."""
        return dataclasses.replace(self, columns={**self.columns, **columns})

    @property
    def name_column(self) -> str:
        """The column that names the rows; '' without one."""
        return next((name for name in NAMES if name in self.columns), "")

    def named(self) -> "Table":
        """With a column of names, `row 7`, where the table has none."""
        if len(self) == 0 or self.name_column:
            return self
        return self.with_columns({"cell": np.array([f"row {i}" for i in self.places], object)})

    @property
    def places(self) -> np.ndarray:
        """The number of each row in sentences."""
        return np.arange(1, len(self) + 1) if self.rows is None else self.rows

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
        for row, value in zip(self.places, values, strict=True):
            if _number(value, suffixes=True) is None:
                raise UserError(
                    f"{self.name} row {row}: {column}={value!r} is not a number; correct the "
                    "cell, and write numbers like 20150000, 2.015e7 or 20.15M"
                )
        return np.array([_number(value, suffixes=True) for value in values], dtype=np.float64)


def as_table(table: Table | Mapping[str, Any] | Sequence[Mapping[str, Any]] | str | pathlib.Path):
    """A Table from whatever a caller has: a Table, columns, records, or a path."""
    if isinstance(table, Table):
        return table
    if isinstance(table, str | pathlib.Path):
        return Table.read(table)
    if isinstance(table, Mapping) or hasattr(table, "columns"):
        return Table.from_columns(table)  # type: ignore[arg-type]
    return Table.from_records(table)


def _is_parquet(path: pathlib.Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"PAR1"
    except OSError as error:
        raise UserError(f"table={path} cannot be read ({reason_of(error)})") from None


def _json_rows(path: pathlib.Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The objects of a file of JSON lines, with the numbers of their lines."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            for place, line in enumerate(file, start=1):
                if line.strip():
                    yield place, _json_row(path, place, line)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"table={path} cannot be read ({reason_of(error)})") from None


def _json_row(path: pathlib.Path, place: int, line: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise UserError(f"table={path} line {place} is no JSON object; give one a line")
    return _flat(row)


Parts = Callable[[], Iterator[Mapping[str, Sequence[Any]]]]
"""Reads a table from its beginning, as columns of some thousand rows at a time."""


def _collect(parts: Parts) -> dict[str, np.ndarray]:
    """The columns of a table that is held as text in parts only.

    What turns out to be text somewhere is read again: its numbers were kept as numbers.
    """
    numbers: dict[str, list[np.ndarray] | None] = {}  # None: text
    count = 0
    for part in parts():
        for name in part:
            numbers.setdefault(name, [np.full(count, np.nan)])
        length = len(next(iter(part.values()), ()))
        for name, found in numbers.items():
            if found is None:
                continue
            values = [_number(value) for value in part.get(name, [None] * length)]
            numbers[name] = None if None in values else [*found, np.array(values, np.float64)]
        count += length
    text = _text_columns(parts, [name for name, found in numbers.items() if found is None])
    return {
        name: text[name] if found is None else np.concatenate(found)
        for name, found in numbers.items()
    }


def _text_columns(parts: Parts, names: Sequence[str]) -> dict[str, np.ndarray]:
    """Some columns as they are written; equal cells are one object."""
    cells: dict[str, list[Any]] = {name: [] for name in names}
    same: dict[Any, Any] = {}
    for part in parts() if names else ():
        length = len(next(iter(part.values()), ()))
        for name in names:
            found = ["" if value is None else value for value in part.get(name, [""] * length)]
            cells[name] += [
                same.setdefault(value, value) if isinstance(value, str) else value
                for value in found
            ]
    return {name: _objects(values) for name, values in cells.items()}


def _objects(values: Sequence[Any]) -> np.ndarray:
    """An array of one object a row, also where objects are lists of one length."""
    return np.fromiter(values, dtype=object, count=len(values))


def _column(values: Iterable[Any]) -> np.ndarray:
    cells = list(values)
    numbers = [_number(value) for value in cells]
    if all(number is not None for number in numbers):
        return np.array(numbers, dtype=np.float64)
    return _objects(["" if cell is None else cell for cell in cells])


def _number(value: Any, *, suffixes: bool = False) -> float | None:
    """A float, NaN for an empty cell, None for text."""
    if value is None:
        return math.nan
    if isinstance(value, str):
        return dialects.number(value, suffixes=suffixes)
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def _by_index(found: dict[str, Any], path: str | pathlib.Path) -> dict[str, Any]:
    """Columns whose cells stand under their row's name, as pandas writes them, in one order."""
    cells = {name: column for name, column in found.items() if isinstance(column, dict)}
    rows = next(iter(cells.values()), {})
    for name, column in cells.items():
        if column.keys() != rows.keys():
            raise UserError(f"table={path} has other rows in {name} than in {next(iter(cells))}")
    return {**found, **{name: [column[row] for row in rows] for name, column in cells.items()}}


def _flat(row: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested objects as one, their keys joined by dots; lists stay text."""
    flat: dict[str, Any] = {}
    for key, value in row.items():
        inner = isinstance(value, Mapping)
        flat |= _flat(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def _cell(value: Any) -> str:
    if isinstance(value, float):
        if math.isnan(value):
            return ""
        return str(int(value)) if value.is_integer() and abs(value) < 2**53 else repr(float(value))
    return str(value)
