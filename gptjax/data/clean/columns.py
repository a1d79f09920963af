"""Columns of numbers on disk, one row a document, written in parts and read as memory maps."""

import os
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

BUFFERED = 4096
"""Rows that are held before they are written."""


class ColumnWriter:
    """Appends rows to a file that appears whole, when the writer is left without an error."""

    def __init__(self, path: Path, dtype: Any):
        self._path, self._dtype = path, np.dtype(dtype)
        self._rows: list[Any] = []
        self._file = _temporary(path).open("wb")

    def add(self, row: Any) -> None:
        """Append a row: a tuple for a structured type, an array for a wide or a ragged column."""
        self._rows.append(row)
        if len(self._rows) >= BUFFERED:
            self._flush()

    def _flush(self) -> None:
        if self._rows and isinstance(self._rows[0], np.ndarray):
            self._file.write(np.concatenate(self._rows).astype(self._dtype).tobytes())
        else:
            self._file.write(np.array(self._rows, self._dtype).tobytes())
        self._rows.clear()

    def __enter__(self) -> "ColumnWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._flush()
        self._file.close()
        if kind is None:
            os.replace(_temporary(self._path), self._path)


def write(path: Path, column: np.ndarray) -> None:
    """Write a whole column."""
    _temporary(path).write_bytes(np.ascontiguousarray(column).tobytes())
    os.replace(_temporary(path), path)


def read(path: Path, dtype: Any, width: int = 0) -> np.ndarray:
    """The rows of a column as a memory map, of `width` numbers each where that is given."""
    if path.stat().st_size == 0:
        return np.zeros((0, width) if width else 0, dtype)
    column = np.memmap(path, dtype, "r")
    return column.reshape(-1, width) if width else column


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.tmp")
