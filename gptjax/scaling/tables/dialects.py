"""Dialects of CSV files: encoding, separator, decimal commas, thousands and suffixes.

Spreadsheets write what their locale says. Each choice is made once for a whole file from all its
cells, and a file whose numbers can be read in two ways is refused instead of guessed.
"""

import csv
import dataclasses
import itertools
import math
import pathlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from gptjax.errors import UserError

SEPARATORS = ",;\t|"
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
EMPTY = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-", "–"))
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}

_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?([eE][+-]?\d+)?")
_DOTTED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_QUOTED = re.compile(r'"[^"]*"')
_SUFFIXED = re.compile(r"([+-]?\d+(?:\.\d+)?) ?([kKMBGT])")


Row = TypeVar("Row")

PART = 4096
"""Rows of a file that are held as text at one time."""


@dataclasses.dataclass(frozen=True)
class Sheet:
    """A file that can be read in parts, as often as is needed.

    Attributes:
      header: names of the columns.
      rows: for each line of cells the row number that a spreadsheet shows.
    """

    header: list[str]
    rows: list[int]
    _lines: Callable[[], Iterator[tuple[int, list[str]]]]
    _plain: Callable[[str], str]

    def parts(self) -> Iterator[dict[str, list[str]]]:
        """The columns of `PART` rows at a time, cells with decimal points and no thousands."""
        lines = (row for _, row in itertools.islice(self._lines(), 1, None))
        for part in in_parts(lines):
            columns = zip(*part, strict=True)
            yield {
                name: list(map(self._plain, cells))
                for name, cells in zip(self.header, columns, strict=True)
            }


def in_parts(rows: Iterable[Row]) -> Iterator[list[Row]]:
    """Rows in lists of `PART`."""
    iterator = iter(rows)
    while part := list(itertools.islice(iterator, PART)):
        yield part


def read_csv(path: pathlib.Path) -> Sheet:
    """A CSV file in whatever dialect it is written; its cells are read when they are asked for.

    Raises:
      UserError: for a file that is no text, has no rows, is ragged, or whose numbers are ambiguous.
    """
    try:
        encoding = _encoding(path)
        separator, skip = _separator(path, encoding)
        lines = _Lines(path, encoding, separator, skip)
        first = next(iter(lines()), None)
        header = [name.strip() for name in first[1]] if first else []
        rows, evidence = [], _Evidence()
        for number, row in itertools.islice(lines(), 1, None):
            if len(row) != len(header):
                raise UserError(
                    f"table={path} line {number} has {len(row)} cells where the header has "
                    f"{len(header)}; the separator was taken to be {separator!r}: check its commas"
                )
            rows.append(number)
            evidence.add(row)
    except UnicodeDecodeError:
        raise _no_text(path) from None
    except (OSError, csv.Error) as error:
        raise UserError(f"table={path} cannot be read ({reason_of(error)})") from None
    if not rows:
        raise UserError(f"table={path} has no rows; give a header line and a line for each run")
    twice = sorted(name for name, count in Counter(header).items() if count > 1)
    if twice:
        raise UserError(f"table={path} has two columns named {twice[0]}; rename one")
    return Sheet(header, rows, lines, evidence.change(path))


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The numbered lines of cells of a file, blank ones left away."""

    path: pathlib.Path
    encoding: str
    separator: str
    skip: bool

    def __call__(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open(encoding=self.encoding, newline="") as file:
            if self.skip:
                file.readline()
            reader = csv.reader(self._checked(file), delimiter=self.separator)
            for number, row in enumerate(reader, start=1):
                if any(map(str.strip, row)):
                    yield number, row

    def _checked(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if "\0" in line:
                raise _no_text(self.path)
            yield line


def _no_text(path: pathlib.Path) -> UserError:
    return UserError(f"table={path} is not UTF-8 text; save it as CSV in UTF-8")


def number(cell: str, *, suffixes: bool = False) -> float | None:
    """A float, NaN for an empty cell, None for text; `20.15M` is one where suffixes are read.

    >>> number("1e6"), number("20.15M"), number("20.15M", suffixes=True)
    (1000000.0, None, 20150000.0)
    """
    cell = cell.strip()
    if cell.lower() in EMPTY:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        found = _SUFFIXED.fullmatch(cell) if suffixes else None
        return float(found[1]) * SUFFIXES[found[2].lower()] if found else None


def reason_of(error: Exception) -> str:
    """The first line of what an error says."""
    return getattr(error, "strerror", None) or str(error).splitlines()[0]


def _encoding(path: pathlib.Path) -> str:
    """By its byte-order mark; without one UTF-8, or UTF-16 where every other byte is zero."""
    with path.open("rb") as file:
        start = file.read(64)
    encoding = next((name for mark, name in MARKS if start.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in start:
        return "utf-16-be" if start[:1] == b"\0" else "utf-16-le"
    return encoding


def _separator(path: pathlib.Path, encoding: str) -> tuple[str, bool]:
    """The separator that gives the header most cells, and whether a `sep=` line names it."""
    with path.open(encoding=encoding, newline="") as file:
        first = file.readline()
        named = re.fullmatch(r"\"?sep=(.)\"?\r?\n?", first)
        if named:
            return named[1], True
        header = first if first.strip() else next((line for line in file if line.strip()), "")
    unquoted = _QUOTED.sub("", header)
    counts = [unquoted.count(mark) for mark in SEPARATORS]
    return SEPARATORS[counts.index(max(counts))], False


class _Evidence:
    """What the cells of a whole file say of its decimal commas and thousands."""

    def __init__(self) -> None:
        self.first = ""
        self.decimal = self.grouped = False

    def add(self, row: list[str]) -> None:
        """Look at the cells of a row that have a comma."""
        for cell in (cell.strip() for cell in row if "," in cell):
            grouped, dotted = _GROUPED.fullmatch(cell), _DOTTED.fullmatch(cell)
            comma = _COMMA.fullmatch(cell)
            if not (grouped or comma or dotted):
                continue
            self.first = self.first or cell
            self.decimal |= bool((comma and not grouped) or dotted)
            self.grouped |= bool(grouped and ("." in cell or cell.count(",") > 1))

    def change(self, path: pathlib.Path) -> Callable[[str], str]:
        """How a cell gets decimal points and no thousands; raises UserError when it is unclear."""
        if not self.first:
            return str
        if self.decimal == self.grouped:
            raise UserError(
                f"table={path} has numbers like {self.first!r}, where the comma may mark decimals "
                "or thousands; write numbers with a decimal point and no thousands separator"
            )
        return _from_decimal_comma if self.decimal else _without_thousands


def _from_decimal_comma(cell: str) -> str:
    text = cell.strip()
    if _DOTTED.fullmatch(text) or _COMMA.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return cell


def _without_thousands(cell: str) -> str:
    return cell.replace(",", "") if _GROUPED.fullmatch(cell.strip()) else cell
