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
MARKS = (
    (b"\xef\xbb\xbf", "utf-8-sig"),
    (b"\xff\xfe\0\0", "utf-32"),
    (b"\0\0\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
OTHER_FORMATS = (
    (b"PK\x03\x04", "a ZIP archive, such as an Excel file"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file"),
    (b"\x1f\x8b", "compressed by gzip"),
    (b"\x28\xb5\x2f\xfd", "compressed by zstd"),
    (b"BZh", "compressed by bzip2"),
    (b"\xfd7zXZ", "compressed by xz"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"SQLite format 3", "an SQLite database"),
    (b"ARROW1", "a Feather file"),
    (b"%PDF", "a PDF"),
    (b"\x80\x04", "a Python pickle"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"<!", "a web page"),
    (b"<html", "a web page"),
    (b"<table", "a web page"),
)
"""First bytes of files that are no CSV, with a word for the sentence."""
EMPTY = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-", "–"))
SUFFIXES = {
    **dict.fromkeys(("k", "thousand", "tsd"), 1e3),
    **dict.fromkeys(("m", "mn", "mio", "mil", "million", "millions"), 1e6),
    **dict.fromkeys(("b", "bn", "g", "billion", "billions", "mrd"), 1e9),
    **dict.fromkeys(("t", "tn", "trillion", "trillions"), 1e12),
    **dict.fromkeys(("", "token", "tokens", "param", "params", "parameters"), 1.0),
    **dict.fromkeys(("pfdays", "pfsdays", "pflopsdays", "petaflopsdays"), 8.64e19),
    **{
        f"{prefix}{unit}": size
        for prefix, size in (
            *(("", 1.0), ("m", 1e6), ("g", 1e9), ("t", 1e12)),
            *(("p", 1e15), ("e", 1e18), ("z", 1e21), ("y", 1e24)),
        )
        for unit in ("flop", "flops")
    },
}
"""What a word behind a number stands for, in small letters without spaces and signs."""
NOUNS = ("tokens", "params", "parameters", "flops")
"""What may stand behind such a word: `1.5B tokens`."""

_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?([eE][+-]?\d+)?")
_DOTTED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_QUOTED = re.compile(r'"[^"]*"')
_SUFFIXED = re.compile(r"([+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?) ?([a-zA-Z][a-zA-Z/ .-]*)")
_POWER = re.compile(r"([+-]?\d+(?:\.\d+)?) ?[x×*·] ?10(?:\^|\*\*)([+-]?\d+)")
_RAISED = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_SPACED = re.compile(r"(?<=\d)[ '’\u00a0\u2009\u202f](?=\d{3}(?!\d))")
_SPACED_NUMBER = re.compile(r"[+-]?\d{1,3}([ '’\u00a0\u2009\u202f]\d{3})+([.,]\d+)?")


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
        if other_format(path):
            raise _no_text(path)
        encoding = _encoding(path)
        comments = _comments(path, encoding)
        separator, skip = _separator(path, encoding, comments)
        lines = _Lines(path, encoding, separator, skip, comments)
        first = next(iter(lines()), None)
        header = [name.strip() for name in first[1]] if first else []
        header[:1] = [name.lstrip("# ") or name for name in header[:1]]
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
        raise UserError(f"table={path} has two columns named {twice[0] or repr('')}; rename one")
    return Sheet(header, rows, lines, evidence.change(path))


@dataclasses.dataclass(frozen=True)
class _Lines:
    """The numbered lines of cells of a file, blank ones left away."""

    path: pathlib.Path
    encoding: str
    separator: str
    skip: bool
    comments: int = 0

    def __call__(self) -> Iterator[tuple[int, list[str]]]:
        with self.path.open(encoding=self.encoding, newline="") as file:
            for _ in range(self.comments + self.skip):
                file.readline()
            reader = csv.reader(self._checked(file), delimiter=self.separator)
            for number, row in enumerate(reader, start=1 + self.comments):
                if any(map(str.strip, row)):
                    yield number, row

    def _checked(self, lines: Iterable[str]) -> Iterator[str]:
        for line in lines:
            if "\0" in line:
                raise _no_text(self.path)
            yield line


def _no_text(path: pathlib.Path) -> UserError:
    found = other_format(path)
    if found:
        return UserError(f"table={path} is {found}; save or unpack it as CSV in UTF-8")
    return UserError(f"table={path} is not UTF-8 text; save it as CSV in UTF-8")


def number(cell: str, *, suffixes: bool = False) -> float | None:
    """A float, NaN for an empty cell, None for text; words behind it are read where asked for.

    >>> number("1e6"), number("20'150'000"), number("20.15M")
    (1000000.0, 20150000.0, None)
    >>> number("20.15M", suffixes=True), number("3 EFLOPs", suffixes=True)
    (20150000.0, 3e+18)
    """
    cell = cell.strip()
    if cell.lower() in EMPTY:
        return math.nan
    try:
        return float(cell)
    except ValueError:
        cell = _together(cell)
    try:
        return float(cell)
    except ValueError:
        return _in_words(cell) if suffixes else None


def _together(cell: str) -> str:
    """A number without spaces or apostrophes between its thousands."""
    return _SPACED.sub("", cell) if _SPACED_NUMBER.fullmatch(cell) else cell


def _in_words(cell: str) -> float | None:
    """A number with a unit in words, or as a power of ten: 20.15M, 1.5 billion tokens, 3×10^21."""
    raised = re.sub(r"10([⁻⁰¹²³⁴⁵⁶⁷⁸⁹]+)", lambda m: "10^" + m[1].translate(_RAISED), cell)
    power = _POWER.fullmatch(raised)
    if power:
        return float(f"{power[1]}e{power[2]}")
    found = _SUFFIXED.fullmatch(cell)
    if not found:
        return None
    word = re.sub(r"[^a-z]", "", found[2].lower())
    if "/" in found[2] and not word.endswith("days"):
        return None  # a rate, as FLOP/s, is no count
    for noun in ("", *NOUNS):
        if word.endswith(noun) and word.removesuffix(noun) in SUFFIXES:
            return float(found[1]) * SUFFIXES[word.removesuffix(noun)]
    return None


def other_format(path: pathlib.Path) -> str:
    """What a file that is no CSV is by its first bytes; '' where they say nothing."""
    with path.open("rb") as file:
        start = file.read(16).lstrip()
    marks = (
        (mark, name) for mark, name in OTHER_FORMATS if start[: len(mark)].lower() == mark.lower()
    )
    return next(marks, (b"", ""))[1]


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


def _comments(path: pathlib.Path, encoding: str) -> int:
    """Lines of comments before the header: they begin with #, as may the header itself."""
    with path.open(encoding=encoding, newline="") as file:
        start: list[str] = []
        after = next(file, "")
        while after.startswith("#"):
            start, after = [*start, after], next(file, "")
    marks = [max(line.count(mark) for mark in SEPARATORS) for line in (*start[-1:], after)]
    heads = bool(start) and marks[0] > 0 and marks[0] == marks[-1] and _numbers_first(after)
    return len(start) - heads


def _numbers_first(line: str) -> bool:
    """Whether a line has a number among its cells, as those below a header have."""
    cells = re.split(f"[{re.escape(SEPARATORS)}]", line)
    return any(number(cell) is not None and cell.strip() for cell in cells)


def _separator(path: pathlib.Path, encoding: str, comments: int) -> tuple[str, bool]:
    """The separator that gives the header most cells, and whether a `sep=` line names it."""
    with path.open(encoding=encoding, newline="") as file:
        first = next(itertools.islice(file, comments, None), "")
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
        for cell in (_together(cell.strip()) for cell in row if "," in cell):
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
    text = _together(cell.strip())
    if _DOTTED.fullmatch(text) or _COMMA.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return cell


def _without_thousands(cell: str) -> str:
    return cell.replace(",", "") if _GROUPED.fullmatch(cell.strip()) else cell
