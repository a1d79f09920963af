"""A worker: takes bundles of a plan one after another until every cell has a record."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import shutil
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.sweeps import records, timing
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.claims import Claims
from gptjax.sweeps.plan import Cell
from gptjax.train import (
    Branches,
    Checkpointer,
    Diverged,
    Fork,
    Hooks,
    Interrupted,
    OtherRun,
    Progress,
    RunResult,
    Session,
    StackHooks,
    Superseded,
    TrainState,
    grow_trunk,
    run,
    run_stack,
)

POLL_SECONDS = 0.5
_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """What a worker does around its bundles.

    Attributes:
      name: shown in the progress display and in `timing/`.
      attempts: tries of a cell that diverges before it is recorded as failed.
      claim_seconds: see Claims.
      compile_ahead: compile the programs of the bundle that comes next, in a thread, while one
        trains. On a CPU the core that compiles is a core that does not train.
      wait_for_others: stay until the bundles that others hold are done, to take over if they die.
    """

    name: str
    attempts: int
    claim_seconds: float
    compile_ahead: bool = False
    wait_for_others: bool = True


def work(
    workdir: Path,
    bundles: Sequence[Bundle],
    session: Session,
    options: WorkerOptions,
    stop: Callable[[], bool],
) -> None:
    """Train every cell that has no record; in the order of `timing.Turns`.

    Raises:
      Interrupted: when `stop` said so; the current run's state is saved and its claim released.
      UserError: when the folder cannot be written.
    """
    claims = Claims(workdir, stale_seconds=options.claim_seconds)
    status = Status(workdir, options.name)
    ahead = _Ahead(session)
    turns, compiled = timing.Turns(bundles), set[int]()
    try:
        while True:
            left = [bundle for bundle in bundles if records.open_cells(workdir, bundle.cells)]
            free = turns.order([one for one in left if claims.free(one.name)], compiled)
            taken = next((bundle for bundle in free if claims.take(bundle.name)), None)
            if taken is not None:
                compiled |= turns.programs(taken)
                later = (one for one in free if one is not taken and claims.free(one.name))
                if options.compile_ahead and (following := next(later, None)) is not None:
                    ahead.compile(following)
                with claims.holding(taken.name):
                    _train(_Taken(workdir, taken, session, options, status, stop, claims))
            elif not left or not options.wait_for_others or stop():
                return
            else:
                status.clear()
                time.sleep(POLL_SECONDS)
    finally:
        status.clear()
        ahead.close()


def _train(taken: "_Taken") -> None:
    """Train a bundle, as long as it is ours."""
    try:
        try:
            taken.train()
        except UserError:
            taken.ask()  # a save fails too where its folder was taken over
            raise
    except Superseded as error:
        print(
            f"gptjax: {error}: this worker did not answer for sweep.claim_seconds; it leaves the "
            "cells to the other and goes on with what is free",
            file=sys.stderr,
            flush=True,
        )


class _Ahead:
    """A thread that compiles for a bundle that nobody has begun."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._device = next(iter(jnp.zeros(()).devices()))  # each thread has its own default
        self._pool = concurrent.futures.ThreadPoolExecutor(1)

    def compile(self, bundle: Bundle) -> None:
        """Begin; what goes wrong is left for the run itself to meet."""
        members = len(bundle.cells) if bundle.stacked else 1
        self._pool.submit(self._compile, bundle.cells[0], members)

    def _compile(self, cell: Cell, members: int) -> None:
        with jax.default_device(self._device):
            self._session.compile_ahead(cell.run, members)

    def close(self) -> None:
        """Drop what has not begun; what has begun cannot be interrupted."""
        self._pool.shutdown(wait=False, cancel_futures=True)


Sessions = Callable[[Sequence[jax.Device]], Session]


def work_on_devices(
    workdir: Path,
    bundles: Sequence[Bundle],
    sessions: Sessions,
    options: WorkerOptions,
    stop: Callable[[], bool],
    devices: Sequence[jax.Device],
    size_of: Callable[[Bundle], int] = lambda bundle: 1,
) -> None:
    """`work` on all devices, each or each group of them in a thread with a session of its own.

    Bundles that need many devices come first; then the groups are cut smaller.

    Args:
      sessions: makes the session of a group.
      size_of: devices that a bundle needs.

    Raises:
      Exception: as `work`. An error on one device stops the others after their current call, which
        save as when they are told to stop, and is raised then.
    """
    made = functools.cache(sessions)
    sizes = sorted({size_of(bundle) for bundle in bundles}, reverse=True) or [1]
    while True:
        for size in sizes:
            part = [bundle for bundle in bundles if size_of(bundle) == size]
            groups = [tuple(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
            waits = options.wait_for_others and size == sizes[-1]
            mine = dataclasses.replace(options, wait_for_others=waits)
            _work_on_groups(workdir, part, made, mine, stop, groups)
        open_ones = any(records.open_cells(workdir, bundle.cells) for bundle in bundles)
        if not open_ones or not options.wait_for_others or stop():
            return
        time.sleep(POLL_SECONDS)  # others hold what is left


def _work_on_groups(
    workdir: Path,
    bundles: Sequence[Bundle],
    sessions: Sessions,
    options: WorkerOptions,
    stop: Callable[[], bool],
    groups: Sequence[tuple[jax.Device, ...]],
) -> None:
    """`work` on every group of devices at once."""
    if len(groups) == 1:
        work(workdir, bundles, sessions(groups[0]), options, stop)
        return
    failed = threading.Event()

    def on(number: int) -> None:
        mine = dataclasses.replace(options, name=f"{options.name}.{number}")
        try:
            with jax.default_device(groups[number][0]):
                work(
                    workdir,
                    bundles,
                    sessions(groups[number]),
                    mine,
                    lambda: stop() or failed.is_set(),
                )
        except BaseException:
            failed.set()
            raise

    with concurrent.futures.ThreadPoolExecutor(len(groups)) as pool:
        started = [pool.submit(on, number) for number in range(len(groups))]
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
        claims: Claims,
    ) -> None:
        self._workdir, self._bundle, self._session = workdir, bundle, session
        self._options, self._status, self._stop = options, status, stop
        self._claims, self._token = claims, claims.token(bundle.name)
        self._trunk_folder = self._own(bundle.name)
        self._state: TrainState | None = None
        self._grown: dict[str, tuple[int, dict[str, float]]] = {}  # updates and seconds of a trunk

    def train(self) -> None:
        """Train every cell of the bundle that has no record."""
        if self._bundle.stacked:
            self._train_stack()
        for cell in self._bundle.cells:
            if not records.has_record(self._workdir, cell):
                self._do(cell)
        self._remove(self._bundle.name)

    def _do(self, cell: Cell) -> None:
        """Train one cell to its record, or to a record of its failure."""
        outcome = self._attempts(cell)
        if isinstance(outcome, str):
            self.ask()
            records.write_failed(self._workdir, cell, outcome)
        else:
            self._record(cell, outcome)
        self._remove(cell.id)

    def ask(self) -> None:
        """Leave when another has taken over: nothing may be written any more."""
        self._claims.check(self._bundle.name)

    def _asked_to_stop(self) -> bool:
        self.ask()
        return self._stop()

    def _record(self, cell: Cell, result: RunResult) -> None:
        self.ask()
        records.write_done(
            self._workdir,
            cell,
            self._with_trunk(cell, result),
            entropy=self._session.corpus.entropy_nats,
            worker=self._options.name,
            bundle=self._bundle.name,
        )

    def _train_stack(self) -> None:
        """Train the cells side by side; those that diverge, or all without room, get no record."""
        cells = self._bundle.cells
        done = [i for i, cell in enumerate(cells) if records.has_record(self._workdir, cell)]
        hooks = StackHooks(
            run=self._hooks(cells[-1]),
            finished=lambda i, result: self._record(cells[i], result),
            diverged=lambda i, error: None,
        )
        folder = self._trunk_folder / "stack"
        runs = [cell.run for cell in cells]
        branches = None
        if self._bundle.shares:
            branches = Branches([run.shared_steps for run in runs], self._forks)
        try:
            self._mended(lambda: run_stack(self._session, runs, folder, hooks, done, branches))
        except Diverged:  # the trunk, for all; each cell by itself says so
            shutil.rmtree(self._trunk_folder, ignore_errors=True)
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
            except (Interrupted, Superseded, UserError):
                raise
            except Exception as error:  # a bug, or what this cell meets: the others go on
                traceback.print_exc()
                reason = f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"
        return reason

    def _run(self, cell: Cell) -> RunResult:
        self._grown.pop(cell.id, None)
        start = (lambda: self._fork(cell)) if self._bundle.shares else None
        hooks = self._hooks(cell)
        return self._mended(lambda: run(self._session, cell.run, self._folder(cell), hooks, start))

    def _mended(self, action: Callable[[], _Result]) -> _Result:
        """What an action gives, once what only damage can have put in its folders is set aside."""
        while True:
            try:
                return action()
            except OtherRun as error:
                print(f"gptjax: {error}; it is set aside", file=sys.stderr, flush=True)
                self._keep_damaged(self._bundle.name, error.directory)

    def _with_trunk(self, cell: Cell, result: RunResult) -> RunResult:
        """The result with what it took to grow the trunk to where the cell leaves it."""
        if cell.id not in self._grown:
            return result
        updates, trunk = self._grown[cell.id]
        seconds = {phase: spent + trunk.get(phase, 0.0) for phase, spent in result.seconds.items()}
        return dataclasses.replace(result, seconds=seconds, updates=result.updates + updates)

    def _fork(self, cell: Cell) -> TrainState:
        """The state at the end of what the cell shares; the trunk stays there."""
        fork = self._grow(cell)
        if fork is None:  # a cell that was added to the plan after its trunk had passed by
            return self._session.init(cell.run)
        return copied(fork.state)

    def _grow(self, cell: Cell) -> Fork | None:
        state, self._state = self._state, None  # used up, also when the trunk diverges
        try:
            fork = grow_trunk(self._session, cell.run, self._trunk_folder, self._hooks(cell), state)
        except Diverged:
            shutil.rmtree(self._trunk_folder, ignore_errors=True)
            raise
        if fork is not None:
            self._grown[cell.id] = fork.updates, fork.seconds
            self._state = fork.state
        return fork

    def _forks(self) -> list[TrainState]:
        """The states in which all cells leave the trunk; each is kept on disk until the stack has
        them, so that a worker that was killed finds them again."""
        return [self._saved_fork(cell) for cell in self._bundle.cells]

    def _saved_fork(self, cell: Cell) -> TrainState:
        saved = Checkpointer(
            self._trunk_folder / "forks" / str(cell.run.shared_steps),
            f"{cell.run.trunk}-{self._session.corpus.fingerprint}",
            keep_last=1,
            keep_best=False,
            before_save=self.ask,
        )
        try:
            state = saved.restore(self._session.init(cell.run))
            if state is not None:
                return state
            fork = self._grow(cell)
            if fork is None:  # cells trained one after another here before
                shutil.rmtree(self._trunk_folder / "checkpoints", ignore_errors=True)
                fork = self._grow(cell)
            assert fork is not None, "a trunk that begins anew passes every fork"
            saved.save(fork.state, wait=True)
            return copied(fork.state)
        finally:
            saved.close()

    def _hooks(self, cell: Cell) -> Hooks:
        return Hooks(
            progress=lambda progress: self._status.show(self._bundle, cell, progress),
            stop=self._asked_to_stop,
            before_save=self.ask,
        )

    def _folder(self, cell: Cell) -> Path:
        # Beside the trunk's folder, which has the bundle's name.
        return self._own(cell.id)

    def _own(self, name: str) -> Path:
        """The folder of a cell or trunk under our token, with what an earlier holder left there."""
        folder = self._workdir / "cells" / name
        mine = folder / str(self._token)
        if not mine.exists() and folder.exists():
            self.ask()
            _take_over(folder, self._token)
        return mine

    def _keep_damaged(self, name: str, path: Path) -> None:
        """Move a folder to `damaged/` of the sweep."""
        place = self._workdir / "damaged"
        place.mkdir(exist_ok=True)
        path.rename(place / f"{name}-{len(list(place.iterdir()))}")

    def _remove(self, name: str) -> None:
        for path in (self._workdir / "cells" / name).glob("**/damaged"):
            self._keep_damaged(name, path)
        shutil.rmtree(self._workdir / "cells" / name, ignore_errors=True)


def _take_over(folder: Path, token: int) -> None:
    """Rename what the last holder left, so that a save it still makes is a file that nobody reads.

    Folders of versions without tokens hold the checkpoints themselves.
    """
    mine = folder / str(token)
    tokens = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()]
    earlier = [number for number in tokens if number < token]
    if earlier:
        (folder / str(max(earlier))).rename(mine)
    elif not tokens:
        for path in list(folder.iterdir()):
            mine.mkdir(exist_ok=True)
            path.rename(mine / path.name)


def copied(state: TrainState) -> TrainState:
    """The same numbers in memory of their own: a step uses up the state that it is given."""
    return jax.tree.map(lambda leaf: leaf.copy(), state)


def memory_reason(error: Any) -> str:
    """One line for an error of the runtime, plain words for the most common."""
    text = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in text:
        return f"out of memory: {text}"
    return text
