"""The metrics file: one JSON line a step, in which a resume leaves no step twice."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

BLOCK = 1 << 16


class MetricsFile:
    """A file of JSON lines `{"step": …, name: value, …}`, by rising step."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: BinaryIO | None = None

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append a line; it is in the file when this returns."""
        if self._file is None:
            self._file = open(self._path, "ab")  # noqa: SIM115
        self._file.write(json.dumps({"step": step, **values}).encode() + b"\n")
        self._file.flush()

    def drop_after(self, step: int) -> None:
        """Drop the lines of later steps, and one that a kill cut off."""
        self.close()
        if self._path.exists():
            with open(self._path, "r+b") as file:
                file.truncate(_end_of(file, step))

    def close(self) -> None:
        """Close the file; the next line opens it again."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _end_of(file: BinaryIO, step: int) -> int:
    """Where the last line of no later step ends, looked for from the end of the file."""
    start = end = file.seek(0, 2)
    held = b""
    while start > 0:
        size = min(BLOCK, start)
        start -= size
        file.seek(start)
        held = file.read(size) + held
        whole = 0 if start == 0 else held.find(b"\n") + 1
        if whole == 0 and start > 0:
            continue
        place = end
        for line in reversed(held[whole:].splitlines(keepends=True)):
            if line.endswith(b"\n") and _step_of(line) <= step:
                return place
            place -= len(line)
        end, held = place, held[:whole]
    return 0


def _step_of(line: bytes) -> float:
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
