"""Cache of compiled programs: each is compiled once, also when several threads ask for it."""

import concurrent.futures
import threading
from collections.abc import Callable
from typing import Any


class Programs:
    """A cache that several threads may fill: who comes second waits for the first."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._made: dict[Any, concurrent.futures.Future] = {}

    def get(self, key: Any, make: Callable[[], Any]) -> Any:
        """The program under `key`, made if it is not there and nobody is at it.

        Raises:
          Exception: what `make` raised, in its own thread; another thread makes it again.
        """
        while True:
            with self._lock:
                future = self._made.get(key)
                mine = future is None
                if future is None:
                    future = self._made[key] = concurrent.futures.Future()
            if mine:
                return self._make(key, make, future)
            if future.exception() is None:  # waits
                return future.result()

    def made(self, key: Any) -> Any:
        """The program under `key` if it is there, else None."""
        future = self._made.get(key)
        return future.result() if future is not None and future.done() else None

    def _make(self, key: Any, make: Callable[[], Any], future: concurrent.futures.Future) -> Any:
        try:
            program = make()
        except BaseException as error:
            with self._lock:
                del self._made[key]
            future.set_exception(error)
            raise
        future.set_result(program)
        return program

    def __len__(self) -> int:
        """How many there are, those on their way included."""
        return len(self._made)
