"""Documents on their way to token files, sorted by hash without having to fit in memory.

A small corpus stays in memory. A larger one is spilled to files, one for each side and first byte
of a document's hash, and each file is sorted alone, or split further by the next byte where it is
large. What is on disk is described in `progress.json`, so that a build that was killed goes on
where it was.
"""

import contextlib
import json
import shutil
import struct
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple

from gptjax.data.split import digest, is_heldout
from gptjax.files import write_json

PARTITIONS = 256
MEMORY_BYTES = 64 << 20
"""Documents held in memory before they are spilled."""
PARTITION_BYTES = 32 << 20
"""A larger file is split further before it is sorted."""
BUFFER_BYTES = 1 << 18
"""Documents are mostly smaller, so that they are written and read many at once."""
HEAD = struct.Struct("<32sQQ")
FIRST_BYTE = 8
"""Of a hash the first eight bytes choose the side, and the rest the place there."""
SCHEMA = 1


class Record(NamedTuple):
    """A document with the hash of its content and its place in the order of reading."""

    name: bytes
    number: int
    document: bytes

    @property
    def order(self) -> tuple[bytes, int]:
        """What a side is sorted by."""
        return self.name[FIRST_BYTE:], self.number


class Spool:
    """The documents of both sides: 0 is train, 1 is held out.

    Attributes:
      read: documents read so far, empty ones among them.
      empty: how many of them were empty.
      bytes: bytes of all that were not.
      kept: documents of each side, copies among them.
      spilled: whether documents are on disk.
    """

    def __init__(self, folder: Path, heldout_fraction: float):
        self.read = self.empty = self.bytes = 0
        self.kept = [0, 0]
        self.spilled = self.whole = False
        self._folder, self._fraction = folder, heldout_fraction
        self._held: dict[tuple[int, int], list[Record]] = defaultdict(list)
        self._held_bytes = 0
        self._restore()

    def fill(self, documents: Iterable[bytes], tick: Callable[[int], None]) -> None:
        """Read all documents, those before a killed build's last spill only to skip them.

        Args:
          tick: is told the bytes so far, now and then.
        """
        if self.whole:
            return
        for document in islice(documents, self.read, None):
            self._add(document)
            if self._held_bytes >= MEMORY_BYTES:
                self._spill(whole=False)
                tick(self.bytes)
        self.whole = True
        if self.spilled:
            self._spill(whole=True)

    def _add(self, document: bytes) -> None:
        self.read += 1
        if not document:
            self.empty += 1
            return
        name = digest(document)
        side = int(is_heldout(name, self._fraction))
        self.kept[side] += 1
        self.bytes += len(document)
        self._held[side, name[FIRST_BYTE]].append(Record(name, self.read, document))
        self._held_bytes += len(document) + HEAD.size

    def path(self, side: int, partition: int) -> Path:
        """The file of a partition; absent where it holds no document."""
        return self._folder / f"{side}-{partition:02x}"

    def records(self, side: int) -> Iterator[Record]:
        """The documents of a side in the order of their hashes, copies beside each other."""
        for partition in range(PARTITIONS):
            if self.spilled:
                yield from ordered(self.path(side, partition))
            else:
                yield from sorted(self._held[side, partition], key=lambda record: record.order)

    def remove(self) -> None:
        """Delete what is on disk."""
        self._held.clear()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _spill(self, *, whole: bool) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        for (side, partition), records in self._held.items():
            with self.path(side, partition).open("ab", BUFFER_BYTES) as file:
                _write(file, records)
        self._held.clear()
        self._held_bytes = 0
        self.spilled = True
        sizes = {path.name: path.stat().st_size for path in self._folder.glob("?-??")}
        facts = {"schema": SCHEMA, "whole": whole, "sizes": sizes}
        counts = {"read": self.read, "empty": self.empty, "bytes": self.bytes, "kept": self.kept}
        write_json(self._folder / "progress.json", facts | counts)

    def _restore(self) -> None:
        """Go back to the last spill of a build that was killed."""
        try:
            found = json.loads((self._folder / "progress.json").read_bytes())
            if found["schema"] != SCHEMA:
                raise KeyError("schema")
            for path in self._folder.glob("?-??"):
                with path.open("r+b") as file:
                    file.truncate(found["sizes"].get(path.name, 0))
        except (OSError, ValueError, KeyError):
            shutil.rmtree(self._folder, ignore_errors=True)
            return
        self.read, self.empty, self.bytes = found["read"], found["empty"], found["bytes"]
        self.kept, self.whole, self.spilled = found["kept"], found["whole"], True


def ordered(path: Path, at: int = FIRST_BYTE + 1) -> Iterator[Record]:
    """The documents of a partition's file in order; `at` is the byte of the hash to split by."""
    if not path.exists():
        return
    if path.stat().st_size <= PARTITION_BYTES:
        yield from sorted(_read(path), key=lambda record: record.order)
        return
    if _is_one(path):
        yield from _read(path)
        return
    parts = path.with_name(f"{path.name}.parts")
    shutil.rmtree(parts, ignore_errors=True)
    parts.mkdir()
    _divide(path, parts, at)
    for part in sorted(parts.iterdir()):
        yield from ordered(part, at + 1)
        part.unlink()
    parts.rmdir()


def _divide(path: Path, parts: Path, at: int) -> None:
    with contextlib.ExitStack() as stack:
        files: dict[int, BinaryIO] = {}
        for record in _read(path):
            byte = record.name[at]
            if byte not in files:
                files[byte] = stack.enter_context((parts / f"{byte:02x}").open("wb"))
            _write(files[byte], [record])


def _write(file: BinaryIO, records: Iterable[Record]) -> None:
    for name, number, document in records:
        file.write(HEAD.pack(name, number, len(document)))
        file.write(document)


def _read(path: Path) -> Iterator[Record]:
    with path.open("rb", BUFFER_BYTES) as file:
        while head := file.read(HEAD.size):
            name, number, size = HEAD.unpack(head)
            yield Record(name, number, file.read(size))


def _is_one(path: Path) -> bool:
    """Whether a file holds copies of a single document, which no splitting makes smaller."""
    names = {record.name for record in islice(_read(path), 2)}
    return len(names) == 1 and len({record.name for record in _read(path)}) == 1
