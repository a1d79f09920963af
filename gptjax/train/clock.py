"""Clock of a training loop: wall time by phase, the length of calls, and when to save."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.parallel import processes
from gptjax.train.session import MAX_STEPS_PER_CALL, Session

CALL_SECONDS = 0.5
PHASES = ("compile", "train", "evaluate", "checkpoint")


class Clock:
    """The wall time of a loop over one or several runs.

    Attributes:
      seconds: of each run by phase; runs that are trained side by side bear equal parts.
      seconds_per_step: of the last call, without compiling.
      recalled: seconds of compiling by earlier processes, of each run.
    """

    def __init__(self, session: Session, runs: int = 1) -> None:
        self._session = session
        self.seconds = [dict.fromkeys(PHASES, 0.0) for _ in range(runs)]
        self.seconds_per_step = 0.0
        self.recalled = [0.0] * runs
        self._saved_at = time.monotonic()

    @contextlib.contextmanager
    def phase(self, name: str, runs: Sequence[int] = (0,)) -> Iterator[None]:
        """While it is open, these runs are at a phase; compiling counts as a phase of its own."""
        compiled, started = self._session.compile_seconds, time.perf_counter()
        yield
        compiling = self._session.compile_seconds - compiled
        for phase, spent in (
            ("compile", compiling),
            (name, time.perf_counter() - started - compiling),
        ):
            for run in runs:
                self.seconds[run][phase] += spent / len(runs)

    @contextlib.contextmanager
    def call(self, steps: int, runs: Sequence[int] = (0,)) -> Iterator[None]:
        """While it is open, these runs are trained for so many steps."""
        first = self.seconds[runs[0]]
        before = first["train"]
        with self.phase("train", runs):
            yield
        self.seconds_per_step = (first["train"] - before) * len(runs) / steps

    def call_length(self) -> int:
        """Steps of the next compiled call: about CALL_SECONDS, so that a signal is heard soon."""
        if self.seconds_per_step == 0.0:
            return 1
        return int(np.clip(CALL_SECONDS / self.seconds_per_step, 1, MAX_STEPS_PER_CALL))

    def checkpoint_due(self) -> bool:
        """Whether the time between checkpoints is over; 0 seconds mean that there are none."""
        interval = self._session.options.checkpoint_seconds
        return interval > 0.0 and time.monotonic() - self._saved_at > interval

    def saved(self) -> None:
        """The time to the next checkpoint begins."""
        self._saved_at = time.monotonic()

    def keep(self, path: Path, updates: int) -> None:
        """Write what the runs have cost so far, for a process that resumes them."""
        if processes.is_first():
            write_json(path, {"seconds": self.seconds, "updates": updates})

    def recall(self, path: Path) -> int:
        """Add what earlier processes kept, and return their steps; 0 where nothing can be read."""
        try:
            kept = read_json(path) if path.exists() else {}
            updates = int(kept["updates"])
            past = [{phase: float(each[phase]) for phase in PHASES} for each in kept["seconds"]]
        except (UserError, KeyError, TypeError, ValueError):
            return 0
        for mine, earlier in zip(self.seconds, past, strict=False):
            for phase in PHASES:
                mine[phase] += earlier[phase]
        self.recalled = [earlier["compile"] for earlier in past]
        return updates
