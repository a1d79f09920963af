"""Retries of cells whose process crashed, up to `sweep.attempts` of them."""

from collections import Counter
from pathlib import Path

from gptjax.sweeps import Cell, records


class Retries:
    """Counts crashes by cell; one that has had its attempts is recorded as failed."""

    def __init__(self, folder: Path, attempts: int) -> None:
        self._folder, self._attempts = folder, attempts
        self._crashes: Counter[str] = Counter()

    def crashed(self, cell: Cell | None, reason: str) -> bool:
        """Whether that was the last attempt.

        Args:
          cell: at work when the process ended; None where it had not begun with one.
          reason: for the record of a cell that is given up.
        """
        name = cell.id if cell else ""
        self._crashes[name] += 1
        if self._crashes[name] < self._attempts:
            return False
        if cell is not None:
            records.write_failed(self._folder, cell, reason)
        return True
