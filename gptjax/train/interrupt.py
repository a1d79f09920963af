"""Interrupts: SIGTERM and Ctrl-C set a flag that the loop reads between compiled calls."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

EXIT_RESUMABLE = 75
"""Exit status (EX_TEMPFAIL) after a signal: the state is saved, the same command continues."""


class Interrupted(Exception):
    """The run was asked to stop and has saved a state from which it can continue."""


class Superseded(Exception):
    """Another worker has taken over the run; what is saved here now must not count."""


class StopFlag:
    """Set by SIGTERM or SIGINT; a second Ctrl-C interrupts at once."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        """Whether a stop was asked for."""
        return self._event.is_set()

    def set(self) -> None:
        """Ask for a stop."""
        self._event.set()

    def wait(self, seconds: float) -> bool:
        """Sleep for `seconds` or until a stop is asked for; returns whether it was."""
        return self._event.wait(seconds)


@contextmanager
def stop_on_signal() -> Iterator[StopFlag]:
    """A StopFlag that SIGTERM and SIGINT set while the context is open (main thread only)."""
    flag = StopFlag()

    def handle(number: int, frame: object) -> None:
        if flag() and number == signal.SIGINT:
            raise KeyboardInterrupt
        flag.set()

    if threading.current_thread() is not threading.main_thread():
        yield flag
        return
    previous = {number: signal.signal(number, handle) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield flag
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
