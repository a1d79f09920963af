"""A claimed bundle: its trunk grown from fork to fork, and each cell trained to its record.

Every write checks the claim first: another worker may have taken over meanwhile.
"""

import contextlib
import dataclasses
import functools
import shutil
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import jax

from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.ops.backend import product_rate
from gptjax.sweeps import records
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
    RunSpec,
    Session,
    StackHooks,
    Superseded,
    TrainState,
    grow_trunk,
    run,
    run_stack,
)
from gptjax.train.evaluate import source_columns

_Result = TypeVar("_Result")


@dataclasses.dataclass(frozen=True)
class WorkerOptions:
    """Options of a worker.

    Attributes:
      name: shown in the progress display and in `timing/`.
      attempts: tries of a cell that diverges before it is recorded as failed.
      claim_seconds: see Claims.
      compile_ahead: compile the programs of the bundle that comes next, in a thread, while one
        trains. On a CPU the core that compiles is a core that does not train.
      score: (session, run, parameters) → what the record of a cell keeps besides, for a cell that
        was trained by itself.
      wait_for_others: stay until the bundles that others hold are done, to take over if they die.
    """

    name: str
    attempts: int
    claim_seconds: float
    compile_ahead: bool = False
    score: Callable[[Session, RunSpec, Any], dict[str, dict[str, float]]] | None = None
    wait_for_others: bool = True


class Status:
    """Progress of a worker, as a small file that a display reads."""

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


class ClaimedBundle:
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
        self._scores: dict[str, dict[str, dict[str, float]]] = {}
        self._score_seconds: dict[str, float] = {}
        self._grown_path = self._trunk_folder / "grown.json"
        self._grown = _read_grown(self._grown_path)

    def train(self) -> None:
        """Train every cell of the bundle that has no record.

        Raises:
          Superseded: when another worker has taken over.
          Interrupted: when `stop` said so; the state is saved.
        """
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
            scored=self._scores.get(cell.id),
            sources=source_columns(self._session.corpus, cell.run, result.evaluation),
            score_seconds=self._score_seconds.get(cell.id, 0.0),
            product_flops_per_s=self._product_rate(cell.run),
        )

    def _product_rate(self, spec: RunSpec) -> float:
        """FLOP/s of products by the devices of a run, each at its best."""
        layout = self._session.layout_of(spec)
        devices = 1 if layout is None else layout.mesh.size
        return devices * product_rate(spec.model.compute_dtype)

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
        start = (lambda: self._fork(cell)) if self._bundle.shares else None
        hooks = self._hooks(cell)
        return self._mended(lambda: run(self._session, cell.run, self._folder(cell), hooks, start))

    def _mended(self, action: Callable[[], _Result]) -> _Result:
        """The result of an action, after damaged files in its folders are set aside."""
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
            self._keep_grown(cell, fork)
            self._state = fork.state
        return fork

    def _keep_grown(self, cell: Cell, fork: Fork) -> None:
        """Note what the trunk has cost the cell, also for a process that resumes it."""
        updates, seconds = self._grown.get(cell.id, (0, {}))
        seconds = {name: spent + seconds.get(name, 0.0) for name, spent in fork.seconds.items()}
        self._grown[cell.id] = updates + fork.earlier + fork.updates, seconds
        self.ask()
        write_json(self._grown_path, self._grown)

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
            finished=None if self._options.score is None else functools.partial(self._score, cell),
        )

    def _score(self, cell: Cell, params: Any) -> None:
        assert self._options.score is not None
        started = time.monotonic()
        self._scores[cell.id] = self._options.score(self._session, cell.run, params)
        self._score_seconds[cell.id] = time.monotonic() - started

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


def _read_grown(path: Path) -> dict[str, tuple[int, dict[str, float]]]:
    """Updates and seconds of the trunk by the cell that bears them; empty if none can be read."""
    try:
        kept = read_json(path) if path.exists() else {}
        return {
            cell: (int(updates), {name: float(spent) for name, spent in seconds.items()})
            for cell, (updates, seconds) in kept.items()
        }
    except (UserError, AttributeError, TypeError, ValueError):
        return {}


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
