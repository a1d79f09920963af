"""Watchdog: a process that waits for ever for another one ends with an error.

A collective of a process that waits for another does not return, and Python cannot interrupt it. So
a thread watches the clock and ends the process with the status on which launchers start it again;
the run continues from its last checkpoint.
"""

import contextlib
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator

import jax

from gptjax.train.interrupt import EXIT_RESUMABLE

Leave = Callable[[str], None]


def leave(sentence: str) -> None:
    """Say it and end this process at once; nothing that hangs is waited for."""
    print(f"gptjax: {sentence}", file=sys.stderr, flush=True)
    sys.stdout.flush()
    os._exit(EXIT_RESUMABLE)


class Watchdog:
    """Watches for how long the process has been in its current phase.

    Phases may lie within each other; the innermost counts, and its clock starts again when one
    within it ends. Outside of phases, and in those without a limit, nothing is watched.
    """

    def __init__(self, seconds: float = 0.0, on_hang: Leave = leave) -> None:
        self._seconds = seconds
        self._on_hang = on_hang
        self._phases: list[tuple[str, bool, Callable[[], str]]] = []
        self._since = time.monotonic()
        self._closed = threading.Event()
        if seconds > 0.0:
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    @contextlib.contextmanager
    def phase(
        self, name: str, *, limited: bool = True, waits_for: Callable[[], str] = str
    ) -> Iterator[None]:
        """While it is open, the process is in the phase `name`.

        Args:
          limited: whether it may last no longer than the watchdog's seconds.
          waits_for: says at a hang what the process may be waiting for.
        """
        # The clock first: the thread must not see another phase with the time of this one.
        self._since = time.monotonic()
        self._phases.append((name, limited, waits_for))
        try:
            yield
        finally:
            self._since = time.monotonic()
            self._phases.pop()

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _watch(self) -> None:
        while not self._closed.wait(min(1.0, self._seconds / 4)):
            phases, lasted = self._phases[-1:], time.monotonic() - self._since
            if phases and phases[0][1] and lasted > self._seconds:
                name, _, waits_for = phases[0]
                self._on_hang(_sentence(name, lasted, waits_for))
                return


def _sentence(name: str, seconds: float, waits_for: Callable[[], str]) -> str:
    where = f"process {jax.process_index()} of {jax.process_count()} on {socket.gethostname()}"
    try:
        what = waits_for()
    except Exception as error:
        what = f"what it waits for is not known ({error})"
    return (
        f"{where} has been at {name} for {seconds:.0f} s (train.hang_seconds); "
        f"{what + '; ' if what else ''}another process is stopped or gone, or a device hangs; "
        "the same command continues from the last checkpoint"
    )
