"""Dialects of CSV files: encoding, separator, decimal commas, thousands and suffixes.

Spreadsheets write what their locale says. Each choice is made once for a whole file from all its
cells, and a file whose numbers can be read in two ways is refused instead of guessed.
"""

import csv
import dataclasses
import io
import math
import pathlib
import re

from gptjax.errors import UserError

SEPARATORS = ",;\t|"
MARKS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
EMPTY = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-", "–"))
SUFFIXES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}

_GROUPED = re.compile(r"[+-]?\d{1,3}(,\d{3})+(\.\d+)?([eE][+-]?\d+)?")
_DOTTED = re.compile(r"[+-]?\d{1,3}(\.\d{3})+(,\d+)?")
_COMMA = re.compile(r"[+-]?\d*,\d+([eE][+-]?\d+)?")
_SUFFIXED = re.compile(r"([+-]?\d+(?:\.\d+)?) ?([kKMBGT])")


@dataclasses.dataclass(frozen=True)
class Sheet:
    """The cells of a file, with the row number that a spreadsheet shows for each line of cells."""

    header: list[str]
    body: list[list[str]]
    rows: list[int]


def read_csv(path: pathlib.Path) -> Sheet:
    """The cells of a CSV file in whatever dialect it is written.

    Raises:
      UserError: for a file that is no text, has no rows, is ragged, or whose numbers are ambiguous.
    """
    try:
        text = _decode(path, path.read_bytes())
        separator, text = _separator(text)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator)
        numbered = [(i, row) for i, row in enumerate(reader, start=1) if any(map(str.strip, row))]
    except (OSError, csv.Error) as error:
        raise UserError(f"table={path} cannot be read ({reason_of(error)})") from None
    if len(numbered) < 2:
        raise UserError(f"table={path} has no rows; give a header line and a line for each run")
    header = [name.strip() for name in numbered[0][1]]
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(f"table={path} has two columns named {twice[0]}; rename one")
    for number, row in numbered[1:]:
        if len(row) != len(header):
            raise UserError(
                f"table={path} line {number} has {len(row)} cells where the header has "
                f"{len(header)}; the separator was taken to be {separator!r}: check its commas"
            )
    body = _plain_numbers(path, [row for _, row in numbered[1:]])
    return Sheet(header, body, [number for number, _ in numbered[1:]])


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


def _decode(path: pathlib.Path, content: bytes) -> str:
    """Text by its byte-order mark; without one UTF-8, or UTF-16 where every other byte is zero."""
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    if encoding == "utf-8" and b"\0" in content[:64]:
        encoding = "utf-16-be" if content[:1] == b"\0" else "utf-16-le"
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:
        raise UserError(f"table={path} is not UTF-8 text; save it as CSV in UTF-8")
    return text


def _separator(text: str) -> tuple[str, str]:
    """The separator that gives the header most cells, and the text without a `sep=` line."""
    first, _, rest = text.partition("\n")
    named = re.fullmatch(r"\"?sep=(.)\"?\r?", first)
    if named:
        return named[1], rest
    header = next((line for line in text.splitlines() if line.strip()), "")
    counts = [len(next(csv.reader([header], delimiter=mark), [])) for mark in SEPARATORS]
    return SEPARATORS[counts.index(max(counts))], text


def _plain_numbers(path: pathlib.Path, body: list[list[str]]) -> list[list[str]]:
    """The cells with decimal points and without thousands, whatever the locale wrote."""
    cells = [cell.strip() for row in body for cell in row if "," in cell]
    numeric = [c for c in cells if _GROUPED.fullmatch(c) or _COMMA.fullmatch(c)]
    numeric += [c for c in cells if _DOTTED.fullmatch(c)]
    if not numeric:
        return body
    decimal = any(_COMMA.fullmatch(c) and not _GROUPED.fullmatch(c) for c in numeric)
    decimal = decimal or any(_DOTTED.fullmatch(c) and "," in c for c in numeric)
    grouped = any("." in c or c.count(",") > 1 for c in numeric if _GROUPED.fullmatch(c))
    if decimal == grouped:
        raise UserError(
            f"table={path} has numbers like {numeric[0]!r}, where the comma may mark decimals or "
            "thousands; write numbers with a decimal point and no thousands separator"
        )
    change = _from_decimal_comma if decimal else _without_thousands
    return [[change(cell) for cell in row] for row in body]


def _from_decimal_comma(cell: str) -> str:
    text = cell.strip()
    if _DOTTED.fullmatch(text) or _COMMA.fullmatch(text):
        return text.replace(".", "").replace(",", ".")
    return cell


def _without_thousands(cell: str) -> str:
    return cell.replace(",", "") if _GROUPED.fullmatch(cell.strip()) else cell
