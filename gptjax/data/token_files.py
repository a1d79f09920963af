"""Token files: flat files of ids in the smallest unsigned type that holds them."""

import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

BLOCK = 1 << 16
"""Ids that are read and hashed at once."""


def smallest_dtype(vocab_size: int) -> np.dtype:
    """uint8, uint16 or uint32: the smallest that holds ids below `vocab_size`.

    >>> [smallest_dtype(size).name for size in (256, 257, 65536, 65537)]
    ['uint8', 'uint16', 'uint16', 'uint32']
    """
    return np.dtype(np.min_scalar_type(vocab_size - 1))


def num_windows(num_tokens: int, seq_len: int) -> int:
    """How many whole windows of `seq_len` inputs and targets fit in `num_tokens`.

    >>> num_windows(9, 4), num_windows(8, 4)
    (2, 1)
    """
    return max(0, (num_tokens - 1) // seq_len)


class TokenWriter:
    """Appends ids to a file and hashes them on the way; the hash is the same for any type."""

    def __init__(self, path: Path, vocab_size: int, resume: int = 0):
        """Open `path`; `resume` ids of it are kept, and the rest is written anew."""
        self.count = 0
        self._dtype = smallest_dtype(vocab_size)
        self._hasher = hashlib.sha256()
        self._wide = np.empty(BLOCK, "<u4")
        self._file = path.open("r+b" if resume else "w+b")
        for ids in blocks(self._file, self._dtype, resume):
            self._count(ids)
        self._file.truncate(resume * self._dtype.itemsize)
        self._file.seek(0, os.SEEK_END)

    def write(self, ids: np.ndarray) -> None:
        """Append a 1-D array of ids below vocab_size."""
        self._count(ids)
        self._file.write(np.ascontiguousarray(ids, self._dtype).data)

    def append(self, parts: Iterable[np.ndarray]) -> None:
        """Append several arrays of ids."""
        for ids in parts:
            self.write(ids)

    def flush(self) -> None:
        """Put on disk all that was written."""
        self._file.flush()
        os.fsync(self._file.fileno())

    def _count(self, ids: np.ndarray) -> None:
        for first in range(0, len(ids), BLOCK):
            some = ids[first : first + BLOCK]
            self._wide[: len(some)] = some
            self._hasher.update(self._wide[: len(some)].data)
        self.count += len(ids)

    @property
    def digest(self) -> str:
        """Hash of the ids written so far and of their number."""
        return f"{self._hasher.hexdigest()}-{self.count}"

    def __enter__(self) -> "TokenWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()


def blocks(file: BinaryIO, dtype: np.dtype, count: int) -> Iterator[np.ndarray]:
    """The next `count` ids of a file, so many at once that they fit a processor's cache."""
    for first in range(0, count, BLOCK):
        yield np.frombuffer(file.read(min(BLOCK, count - first) * dtype.itemsize), dtype)


def file_blocks(path: Path, vocab_size: int) -> Iterator[np.ndarray]:
    """The ids of a file that `TokenWriter` wrote, read in parts."""
    dtype = smallest_dtype(vocab_size)
    with path.open("rb") as file:
        yield from blocks(file, dtype, path.stat().st_size // dtype.itemsize)


def open_tokens(path: Path, vocab_size: int) -> np.ndarray:
    """The ids of a file that `TokenWriter` wrote, as a read-only memory map."""
    return np.memmap(path, dtype=smallest_dtype(vocab_size), mode="r")


def content(digests: Iterable[str], vocab_size: int, end_of_document: int) -> str:
    """One hash of both sides' ids and of what the ids are."""
    facts = [*digests, vocab_size, end_of_document]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
