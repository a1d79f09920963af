"""A worker: takes cells of a plan one after another until every cell has a record."""

import contextlib
import dataclasses
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.sweeps import records
from gptjax.sweeps.claims import Claims
from gptjax.sweeps.plan import Cell
from gptjax.train import Diverged, Hooks, Progress, RunResult, Session, run

POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """What a worker does around its cells.

    Attributes:
      name: shown in the progress display and in `timing/`.
      attempts: tries of a cell that diverges before it is recorded as failed.
      claim_seconds: see Claims.
      wait_for_others: stay until the cells that others hold are done, to take over if they die.
    """

    name: str
    attempts: int
    claim_seconds: float
    wait_for_others: bool = True


def work(
    workdir: Path,
    cells: Sequence[Cell],
    session: Session,
    options: WorkerOptions,
    stop: Callable[[], bool],
) -> None:
    """Train cells until each has a record; `cells` in the order of preference.

    Raises:
      Interrupted: when `stop` said so; the current cell's state is saved and its claim released.
      UserError: when the folder cannot be written.
    """
    claims = Claims(workdir, stale_seconds=options.claim_seconds)
    status = Status(workdir, options.name)
    try:
        while True:
            open_cells = [cell for cell in cells if not records.record_path(workdir, cell).exists()]
            taken = next((cell for cell in open_cells if claims.take(cell.id)), None)
            if taken is not None:
                _claimed(workdir, taken, claims, session, options, status, stop)
            elif not open_cells or not options.wait_for_others or stop():
                return
            else:
                status.clear()
                time.sleep(POLL_SECONDS)
    finally:
        status.clear()


def forget_dead(workdir: Path, claim_seconds: float) -> None:
    """Remove what killed workers left of their progress, so that no display shows it."""
    claims = Claims(workdir, stale_seconds=claim_seconds)
    for path in (workdir / "progress").glob("*.json"):
        if claims.free(read_json(path)["cell"]):
            path.unlink(missing_ok=True)


def _claimed(
    workdir: Path,
    cell: Cell,
    claims: Claims,
    session: Session,
    options: WorkerOptions,
    status: "Status",
    stop: Callable[[], bool],
) -> None:
    try:
        with claims.heartbeat(cell.id):
            _do(workdir, cell, session, options, status, stop)
    finally:
        claims.release(cell.id)


class Status:
    """The worker's current cell, as a small file that a display reads."""

    def __init__(self, workdir: Path, name: str) -> None:
        self._path = workdir / "progress" / f"{name}.json"
        self._written = 0.0

    def show(self, cell: Cell, progress: Progress) -> None:
        """Write the progress, twice a second at most."""
        now = time.monotonic()
        if now - self._written < 0.5 and progress.step < progress.steps:
            return
        self._written = now
        write_json(
            self._path,
            {
                "cell": cell.id,
                "width": cell.run.model.width,
                "budget": cell.budget,
                **dataclasses.asdict(progress),
                "flops": cell.flops * progress.step / progress.steps,
                "time": time.time(),
            },
        )

    def clear(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink()


def _do(
    workdir: Path,
    cell: Cell,
    session: Session,
    options: WorkerOptions,
    status: Status,
    stop: Callable[[], bool],
) -> None:
    """Train one cell to its record, or to a record of its failure."""
    if records.record_path(workdir, cell).exists():
        return  # finished by another between our look and our claim
    folder = workdir / "cells" / cell.id
    hooks = Hooks(progress=lambda progress: status.show(cell, progress), stop=stop)
    outcome = _attempts(session, cell, folder, hooks, options.attempts)
    if isinstance(outcome, str):
        records.write_failed(workdir, cell, outcome)
    else:
        entropy = session.corpus.entropy_nats
        records.write_done(workdir, cell, outcome, entropy=entropy, worker=options.name)
    shutil.rmtree(folder, ignore_errors=True)


def _attempts(
    session: Session, cell: Cell, folder: Path, hooks: Hooks, attempts: int
) -> RunResult | str:
    """The result, or the reason why there is none."""
    reason = ""
    for attempt in range(1, attempts + 1):
        try:
            return run(session, cell.run, folder, hooks)
        except Diverged as error:
            reason = f"{error} (in each of {attempt} attempts)" if attempt > 1 else str(error)
            shutil.rmtree(folder, ignore_errors=True)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            return memory_reason(error)
        except (UserError, KeyboardInterrupt):
            raise
    return reason


def memory_reason(error: Any) -> str:
    """One line for an error of the runtime, plain words for the most common."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory: {text}"
    return text
