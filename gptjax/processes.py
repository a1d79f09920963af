"""Independent calls in forked copies of this process, one for each core.

Small NumPy operations hold Python's lock for most of their time, so threads leave the second core
idle. A copy has every table and module at hand; what it finds comes back pickled.
"""

import multiprocessing
import os
import struct
import threading
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from gptjax.threads import available_cores, in_threads, on_one_core, outcome

THREADS = Path("/proc/self/task")


class LostCopy(Exception):
    """A copy that ended without an answer, or with one that cannot be sent."""


def may_copy() -> bool:
    """Whether a copy of this process works: on Linux, with no threads but those of BLAS.

    A lock that another thread holds is never released in a copy. A started JAX has more threads
    than there are cores.
    """
    cores = len(available_cores())
    if cores < 2 or threading.active_count() > 1 or not THREADS.is_dir():
        return False
    return len(list(THREADS.iterdir())) <= cores


class Copy:
    """A forked copy of this process that makes one call, `work(receive)`, beside it.

    `receive()` gives the copy what `send` was given. Leaving the context ends the copy.
    """

    def __init__(self, work: Callable[[Callable[[], Any]], Any]) -> None:
        context = multiprocessing.get_context("fork")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(work, theirs, self._pipe))
        with warnings.catch_warnings():  # of the threads of BLAS, and of a JAX without any
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)
            self._process.start()
        theirs.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def send(self, content: Any) -> None:
        """Give the copy what it waits for; nothing where it has ended."""
        try:
            self._pipe.send(content)
        except OSError:
            return

    def result(self) -> Any:
        """What the call returned.

        Raises:
          Exception: what the call raised.
          LostCopy: where there is no answer.
        """
        try:
            done, found = self._pipe.recv()
        except Exception as error:  # its end, or an answer that cannot be read
            raise LostCopy(str(error)) from error
        if not done:
            raise found
        return found


def _answer(work: Callable[[Callable[[], Any]], Any], pipe: Any, other: Any) -> None:
    """The life of a copy: the call, and its answer or error sent back."""
    other.close()
    try:
        try:
            answer = True, on_one_core(work, pipe.recv)
        except Exception as error:
            answer = False, error
        pipe.send(answer)
    except BaseException:  # interrupted, or nobody waits any more: the first process speaks
        return


def in_processes(
    calls: Sequence[Callable[[], Any]], after: Callable[[], None] = lambda: None
) -> list[Any]:
    """The results of calls in their order, made by a process for each core.

    Each process takes the next call that nobody has taken. A UserError is a result too; results
    must be such as can be pickled, and calls change nothing in this process. Where it must not be
    copied the calls are made in threads.

    Args:
      after: called here for each call that is done.

    Raises:
      Exception: what a call raised, but for a UserError.
    """
    if len(calls) < 2 or not may_copy():
        return in_threads(calls, after)
    waiting = _queue(len(calls))
    copies: list[Copy] = []
    try:
        for _ in range(min(len(available_cores()), len(calls)) - 1):
            copies.append(Copy(lambda _: _made(calls, waiting, lambda: None)))
        found = on_one_core(_made, calls, waiting, after)
        for copy in copies:
            found |= _found_by(copy, after)
    finally:
        os.close(waiting)
        for copy in copies:
            copy.__exit__()
    return [found[i] if i in found else outcome(call) for i, call in enumerate(calls)]


def _queue(count: int) -> int:
    """A pipe to read the numbers 0 to count - 1 from, by any process."""
    waiting, filled = os.pipe()
    os.write(filled, b"".join(struct.pack("<H", i) for i in range(count)))
    os.close(filled)
    return waiting


def _made(
    calls: Sequence[Callable[[], Any]], waiting: int, after: Callable[[], None]
) -> dict[int, Any]:
    """Results of the calls that this process takes from the queue, by their number."""
    found = {}
    while taken := os.read(waiting, 2):
        (number,) = struct.unpack("<H", taken)
        found[number] = outcome(calls[number])
        after()
    return found


def _found_by(copy: Copy, after: Callable[[], None]) -> dict[int, Any]:
    """What a copy found; nothing where it was lost, so that its calls are made again."""
    try:
        found = copy.result()
    except LostCopy:
        return {}
    for _ in found:
        after()
    return found
