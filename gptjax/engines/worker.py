"""A worker: takes bundles of a plan one after another until every cell has a record."""

import concurrent.futures
import dataclasses
import functools
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp

from gptjax.engines.claimed_bundle import ClaimedBundle, Status, WorkerOptions
from gptjax.errors import UserError
from gptjax.files import read_json
from gptjax.sweeps import records, timing
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.claims import Claims
from gptjax.sweeps.plan import Cell
from gptjax.train import Interrupted, Session, Superseded

POLL_SECONDS = 0.5


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
    open_ones = OpenBundles(workdir, bundles, claims)
    try:
        while True:
            taken = open_ones.take()
            if taken is not None:
                if options.compile_ahead and (following := open_ones.following()) is not None:
                    ahead.compile(following)
                open_ones.compile(taken)
                with claims.holding(taken.name):
                    _train(ClaimedBundle(workdir, taken, session, options, status, stop, claims))
                open_ones.put_back(taken)
            elif not open_ones.left or not options.wait_for_others or stop():
                return
            else:
                status.clear()
                time.sleep(POLL_SECONDS)
    finally:
        status.clear()
        ahead.close()


class OpenBundles:
    """The bundles that this worker has not seen done, in the order of `timing.Turns`.

    One that was seen done is never looked at again, and what is behind the bundle that is taken is
    not looked at: a look costs what others hold, and not what there is.
    """

    def __init__(self, workdir: Path, bundles: Sequence[Bundle], claims: Claims) -> None:
        self._workdir, self._claims = workdir, claims
        self.left = {bundle.name: bundle for bundle in bundles}
        self._queue = timing.Queue(timing.Turns(bundles), bundles, self.left)
        self.compile, self.put_back = self._queue.compile, self._queue.put_back

    def take(self) -> Bundle | None:
        """Claim the first in turn; it is not left until it is put back."""
        return self._first(lambda bundle: self._claims.take(bundle.name), keep=False)

    def following(self) -> Bundle | None:
        """The first in turn, which stays left."""
        return self._first(lambda bundle: True, keep=True)

    def _first(self, usable: Callable[[Bundle], bool], *, keep: bool) -> Bundle | None:
        """The first in turn among those that are open and free."""
        held: list[Bundle] = []
        try:
            while (one := self._next_free(held)) is not None:
                if usable(one):
                    return one if keep else self.left.pop(one.name)
                held.append(self.left.pop(one.name))
        finally:
            for bundle in held:
                self._queue.put_back(bundle)
        return None

    def _next_free(self, held: list[Bundle]) -> Bundle | None:
        """The first in turn, once it and the longest, by which turns are judged, are free."""
        free = set[str]()
        while (longest := self._queue.longest()) is not None:
            first = self._queue.next() or longest
            unseen = [one for one in (longest, first) if one.name not in free]
            if not unseen:
                return first
            if self._is_free(unseen[0], held):
                free.add(unseen[0].name)
        return None

    def _is_free(self, bundle: Bundle, held: list[Bundle]) -> bool:
        """Whether a bundle can be taken; one that cannot is left no more, for now or for ever."""
        if records.open_cells(self._workdir, bundle.cells):
            if self._claims.free(bundle.name):
                return True
            held.append(bundle)
        del self.left[bundle.name]
        return False


def _train(taken: ClaimedBundle) -> None:
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
        bundles = [one for one in bundles if records.open_cells(workdir, one.cells)]
        for size in sizes:
            part = [bundle for bundle in bundles if size_of(bundle) == size]
            groups = [tuple(devices[i : i + size]) for i in range(0, len(devices) - size + 1, size)]
            waits = options.wait_for_others and size == sizes[-1]
            mine = dataclasses.replace(options, wait_for_others=waits)
            _work_on_groups(workdir, part, made, mine, stop, groups)
        if not _any_open(workdir, bundles) or not options.wait_for_others or stop():
            return
        time.sleep(POLL_SECONDS)  # others hold what is left


def _any_open(workdir: Path, bundles: Sequence[Bundle]) -> bool:
    return any(records.open_cells(workdir, bundle.cells) for bundle in bundles)


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
