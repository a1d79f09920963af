"""Independent calls in threads, one for each core: fits that do not depend on each other."""

import concurrent.futures
import contextvars
import os
from collections.abc import Callable, Sequence
from typing import Any

from gptjax.errors import UserError

_ONE_CORE = contextvars.ContextVar("one_core", default=False)


def in_threads(
    calls: Sequence[Callable[[], Any]], after: Callable[[], None] = lambda: None
) -> list[Any]:
    """The results of calls in their order, a thread for each core; a UserError is a result too.

    A fit of a large table, or one that is compiled, runs most of its time with Python's lock
    released. Its numbers do not depend on what runs beside it.

    Args:
      after: called for each call that is done, in its thread.

    Raises:
      Exception: what a call raised, but for a UserError.
    """

    def made(call: Callable[[], Any]) -> Any:
        try:
            return outcome(call)
        finally:
            after()

    if _ONE_CORE.get():
        return [made(call) for call in calls]
    with concurrent.futures.ThreadPoolExecutor(len(available_cores())) as pool:
        futures = [pool.submit(contextvars.copy_context().run, made, call) for call in calls]
        return [future.result() for future in futures]


def outcome(call: Callable[[], Any]) -> Any:
    """What a call returns, or the UserError that it raises."""
    try:
        return call()
    except UserError as error:
        return error


def unless_refused(result: Any) -> Any:
    """A result of an `outcome`; a UserError is raised."""
    if isinstance(result, UserError):
        raise result
    return result


def on_one_core(call: Callable[..., Any], *arguments: Any) -> Any:
    """The call, with every `in_threads` inside it one call after the other."""
    context = contextvars.copy_context()
    context.run(_ONE_CORE.set, True)
    return context.run(call, *arguments)


def available_cores() -> list[int]:
    """Numbers of the CPU cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
