"""A worker: takes bundles of a plan one after another until every cell has a record."""

import concurrent.futures
import contextlib
import dataclasses
import shutil
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax

from gptjax.files import read_json, write_json
from gptjax.sweeps import records
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.claims import Claims
from gptjax.sweeps.plan import Cell
from gptjax.train import (
    Diverged,
    Hooks,
    Interrupted,
    Progress,
    RunResult,
    Session,
    StackHooks,
    TrainState,
    grow_trunk,
    run,
    run_stack,
)

POLL_SECONDS = 0.5


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """What a worker does around its bundles.

    Attributes:
      name: shown in the progress display and in `timing/`.
      attempts: tries of a cell that diverges before it is recorded as failed.
      claim_seconds: see Claims.
      wait_for_others: stay until the bundles that others hold are done, to take over if they die.
    """

    name: str
    attempts: int
    claim_seconds: float
    wait_for_others: bool = True


def work(
    workdir: Path,
    bundles: Sequence[Bundle],
    session: Session,
    options: WorkerOptions,
    stop: Callable[[], bool],
) -> None:
    """Train every cell that has no record; `bundles` in the order of preference.

    Raises:
      Interrupted: when `stop` said so; the current run's state is saved and its claim released.
      UserError: when the folder cannot be written.
    """
    claims = Claims(workdir, stale_seconds=options.claim_seconds)
    status = Status(workdir, options.name)
    try:
        while True:
            left = [bundle for bundle in bundles if records.open_cells(workdir, bundle.cells)]
            taken = next((bundle for bundle in left if claims.take(bundle.name)), None)
            if taken is not None:
                with claims.holding(taken.name):
                    _Taken(workdir, taken, session, options, status, stop).train()
            elif not left or not options.wait_for_others or stop():
                return
            else:
                status.clear()
                time.sleep(POLL_SECONDS)
    finally:
        status.clear()


def work_on_devices(
    workdir: Path,
    bundles: Sequence[Bundle],
    sessions: Callable[[], Session],
    options: WorkerOptions,
    stop: Callable[[], bool],
    devices: Sequence[jax.Device],
) -> None:
    """`work` on every device at once, each in a thread with a session of its own.

    An error on one device stops the others after their current call, which save as when they are
    told to stop, and is raised then.
    """
    if len(devices) == 1:
        work(workdir, bundles, sessions(), options, stop)
        return
    failed = threading.Event()

    def on(number: int) -> None:
        mine = dataclasses.replace(options, name=f"{options.name}.{number}")
        try:
            with jax.default_device(devices[number]):
                work(workdir, bundles, sessions(), mine, lambda: stop() or failed.is_set())
        except BaseException:
            failed.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(len(devices)) as pool:
        started = [pool.submit(on, number) for number in range(len(devices))]
    errors = [error for future in started if (error := future.exception()) is not None]
    if errors:
        raise min(errors, key=lambda error: isinstance(error, Interrupted))


def forget_dead(workdir: Path, claim_seconds: float) -> None:
    """Remove what killed workers left of their progress, so that no display shows it."""
    claims = Claims(workdir, stale_seconds=claim_seconds)
    for path in (workdir / "progress").glob("*.json"):
        if claims.free(read_json(path)["claim"]):
            path.unlink(missing_ok=True)


class Status:
    """What the worker is at, as a small file that a display reads."""

    def __init__(self, workdir: Path, name: str) -> None:
        self._path = workdir / "progress" / f"{name}.json"
        self._written = 0.0

    def show(self, bundle: Bundle, cell: Cell, progress: Progress) -> None:
        """Write the progress, twice a second at most."""
        now = time.monotonic()
        if now - self._written < 0.5 and progress.step < progress.steps:
            return
        self._written = now
        write_json(
            self._path,
            {
                "claim": bundle.name,
                "cell": cell.id,
                "beside": [one.id for one in bundle.cells if bundle.stacked and one is not cell],
                "width": cell.run.model.width,
                "budget": cell.budget,
                **dataclasses.asdict(progress),
                "time": time.time(),
            },
        )

    def clear(self) -> None:
        """Remove the file."""
        with contextlib.suppress(OSError):
            self._path.unlink()


class _Taken:
    """A claimed bundle on its way: the trunk grows from fork to fork, each cell runs to its end.

    Stacked cells run side by side; one that diverges there is tried again by itself.
    """

    def __init__(
        self,
        workdir: Path,
        bundle: Bundle,
        session: Session,
        options: WorkerOptions,
        status: Status,
        stop: Callable[[], bool],
    ) -> None:
        self._workdir, self._bundle, self._session = workdir, bundle, session
        self._options, self._status, self._stop = options, status, stop
        self._trunk_folder = workdir / "cells" / bundle.name
        self._state: TrainState | None = None
        self._trunk_updates = 0
        self._trunk_seconds: dict[str, float] = {}

    def train(self) -> None:
        """Train every cell of the bundle that has no record."""
        if self._bundle.stacked:
            self._train_stack()
        for cell in self._bundle.cells:
            if not records.has_record(self._workdir, cell):
                self._do(cell)
        shutil.rmtree(self._trunk_folder, ignore_errors=True)

    def _do(self, cell: Cell) -> None:
        """Train one cell to its record, or to a record of its failure."""
        outcome = self._attempts(cell)
        if isinstance(outcome, str):
            records.write_failed(self._workdir, cell, outcome)
        else:
            self._record(cell, outcome)
        shutil.rmtree(self._folder(cell), ignore_errors=True)

    def _record(self, cell: Cell, result: RunResult) -> None:
        records.write_done(
            self._workdir, cell, result,
            entropy=self._session.corpus.entropy_nats,
            worker=self._options.name, bundle=self._bundle.name,
        )  # fmt: skip

    def _train_stack(self) -> None:
        """Train the cells side by side; those that diverge, or all without room, get no record."""
        cells = self._bundle.cells
        done = [i for i, cell in enumerate(cells) if records.has_record(self._workdir, cell)]
        hooks = StackHooks(
            run=self._hooks(cells[-1]),
            finished=lambda i, result: self._record(cells[i], result),
            diverged=lambda i, error: None,
        )
        folder = self._workdir / "cells" / self._bundle.name
        try:
            run_stack(self._session, [cell.run for cell in cells], folder, hooks, done)
        except (MemoryError, jax.errors.JaxRuntimeError) as error:
            print(f"the stack is given up: {memory_reason(error)}", file=sys.stderr)

    def _attempts(self, cell: Cell) -> RunResult | str:
        """The result, or the reason why there is none."""
        reason = ""
        for attempt in range(1, self._options.attempts + 1):
            try:
                return self._run(cell)
            except Diverged as error:
                reason = f"{error} (in each of {attempt} attempts)" if attempt > 1 else str(error)
                shutil.rmtree(self._folder(cell), ignore_errors=True)
            except (MemoryError, jax.errors.JaxRuntimeError) as error:
                return memory_reason(error)
        return reason

    def _run(self, cell: Cell) -> RunResult:
        self._trunk_updates, self._trunk_seconds = 0, {}
        start = (lambda: self._fork(cell)) if self._bundle.shares else None
        result = run(self._session, cell.run, self._folder(cell), self._hooks(cell), start)
        seconds = {
            phase: spent + self._trunk_seconds.get(phase, 0.0)
            for phase, spent in result.seconds.items()
        }
        updates = result.updates + self._trunk_updates
        return dataclasses.replace(result, seconds=seconds, updates=updates)

    def _fork(self, cell: Cell) -> TrainState:
        """The state at the end of what the cell shares; the trunk stays there."""
        state, self._state = self._state, None  # used up, also when the trunk diverges
        try:
            fork = grow_trunk(
                self._session, cell.run, self._trunk_folder, self._hooks(cell), state
            )
        except Diverged:
            shutil.rmtree(self._trunk_folder, ignore_errors=True)
            raise
        if fork is None:  # a cell that was added to the plan after its trunk had passed by
            return self._session.init(cell.run)
        self._trunk_updates, self._trunk_seconds = fork.updates, fork.seconds
        self._state = fork.state
        return jax.tree.map(lambda leaf: leaf.copy(), fork.state)

    def _hooks(self, cell: Cell) -> Hooks:
        return Hooks(
            progress=lambda progress: self._status.show(self._bundle, cell, progress),
            stop=self._stop,
        )

    def _folder(self, cell: Cell) -> Path:
        # Beside the trunk's folder, which has the bundle's name.
        return self._workdir / "cells" / cell.id


def memory_reason(error: Any) -> str:
    """One line for an error of the runtime, plain words for the most common."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory: {text}"
    return text
