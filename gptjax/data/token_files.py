"""Token ids on disk: a flat file of the smallest unsigned type that holds them."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import numpy as np


def smallest_dtype(vocab_size: int) -> np.dtype:
    """uint8, uint16 or uint32: the smallest that holds ids below `vocab_size`.

    >>> [smallest_dtype(size).name for size in (256, 257, 65536, 65537)]
    ['uint8', 'uint16', 'uint16', 'uint32']
    """
    return np.dtype(np.min_scalar_type(vocab_size - 1))


class TokenWriter:
    """Appends ids to a file and hashes them on the way; the hash is the same for any type."""

    def __init__(self, path: Path, vocab_size: int):
        self.count = 0
        self._dtype = smallest_dtype(vocab_size)
        self._hasher = hashlib.sha256()
        self._file = path.open("wb")

    def write(self, ids: np.ndarray) -> None:
        """Append a 1-D array of ids below vocab_size."""
        ids = np.ascontiguousarray(ids)
        self._hasher.update(ids.astype("<u4").data)
        self._file.write(ids.astype(self._dtype).data)
        self.count += len(ids)

    def write_documents(self, encoded: Iterable[np.ndarray], end_of_document: int) -> None:
        """Append documents, each preceded by the end-of-document id, and one more at the end."""
        separator = np.array([end_of_document], dtype=np.uint32)
        self.write(separator)
        for ids in encoded:
            self.write(np.concatenate([ids.astype(np.uint32), separator]))

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


def open_tokens(path: Path, vocab_size: int) -> np.ndarray:
    """The ids of a file that `TokenWriter` wrote, as a read-only memory map."""
    return np.memmap(path, dtype=smallest_dtype(vocab_size), mode="r")


def content(digests: Iterable[str], vocab_size: int, end_of_document: int) -> str:
    """One hash of both sides' ids and of what the ids are."""
    facts = [*digests, vocab_size, end_of_document]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()
