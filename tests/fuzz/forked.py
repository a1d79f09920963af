"""Commands in forked processes: thousands of them without the seconds of import of each.

A command is a fresh process of the same image after the imports, with its own folder, environment,
output and process group; JAX starts no thread before a command runs, so a fork is safe.
"""

import dataclasses
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

TRACEBACK_STATUS = 1


@dataclasses.dataclass(frozen=True)
class Outcome:
    """How a command ended; `status` is None for one that had to be killed, below 0 for a signal."""

    status: int | None
    out: str
    err: str
    seconds: float


def import_all() -> Callable[[Sequence[str]], int]:
    """The command line's main, after the imports of every job."""
    import gptjax.job
    import gptjax.main
    import gptjax.stages.start

    for name in gptjax.job.JOBS:
        gptjax.job.find(name)
    return gptjax.main.main


def run(
    words: Sequence[str], folder: Path, variables: Mapping[str, str], seconds: float
) -> Outcome:
    """Run `gptjax words` in a forked process of its own group, at most so many seconds."""
    main = import_all()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        started = time.monotonic()
        pid = os.fork()
        if pid == 0:
            _child(main, words, folder, variables, out.fileno(), err.fileno())
        status = _wait(pid, started + seconds)
        took = time.monotonic() - started
        return Outcome(status, _text(out), _text(err), took)


def _child(main, words, folder, variables, out: int, err: int) -> None:
    status = TRACEBACK_STATUS
    try:
        os.setsid()
        os.chdir(folder)
        os.environ.update(variables)
        for stream, target in ((0, os.open(os.devnull, os.O_RDONLY)), (1, out), (2, err)):
            os.dup2(target, stream)
        sys.stdin, sys.stdout, sys.stderr = (
            os.fdopen(stream, mode, encoding="utf-8", closefd=False)
            for stream, mode in ((0, "r"), (1, "w"), (2, "w"))
        )
        status = main(["gptjax", *words])
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else TRACEBACK_STATUS)


def _wait(pid: int, deadline: float) -> int | None:
    pause = 0.001
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(pause)
        pause = min(2 * pause, 0.05)
    os.killpg(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def _text(file) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")
