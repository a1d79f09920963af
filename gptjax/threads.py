"""Independent calls in threads, one for each core: fits that do not depend on each other."""

import concurrent.futures
import contextvars
import os
from collections.abc import Callable, Sequence
from typing import Any

from gptjax.errors import UserError


def in_threads(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    """The results of calls in their order, a thread for each core; a UserError is a result too.

    A fit waits for compiled programs most of its time, with Python's lock released. Its numbers do
    not depend on what runs beside it.

    Raises:
      Exception: what a call raised, but for a UserError.
    """

    def outcome(call: Callable[[], Any]) -> Any:
        try:
            return call()
        except UserError as error:
            return error

    with concurrent.futures.ThreadPoolExecutor(len(available_cores())) as pool:
        futures = [pool.submit(contextvars.copy_context().run, outcome, call) for call in calls]
        return [future.result() for future in futures]


def available_cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
