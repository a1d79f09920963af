"""sweep.engine=ray: the bundles of a sweep as tasks of a Ray cluster (https://docs.ray.io).

Every node needs gptjax and the sweep's folder. Ray decides where a task runs; claims and
checkpoints in the folder decide what is left to do, so a task that is started again elsewhere
continues from the last checkpoint.
"""

import dataclasses
import functools
import importlib.util
import logging
import os
import socket
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax import sweeps
from gptjax.build import Setup
from gptjax.errors import UserError
from gptjax.jobs import plan, work
from gptjax.jobs.display import Display
from gptjax.sweeps import Bundle, Cell, records, timing
from gptjax.train import EXIT_RESUMABLE, Session, stop_on_signal

POLL_SECONDS = 0.25
ANSWER_SECONDS = 5.0
STOP_SECONDS = 60.0


def connect(setup: Setup) -> None:
    """Join the cluster of `sweep.address`.

    Raises:
      UserError: when Ray is not installed or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            "sweep.engine=ray needs Ray; pip install 'gptjax[ray]' or set sweep.engine=local"
        )
    import ray

    given = setup.sweep.address
    address = os.environ.get("RAY_ADDRESS", "auto") if given == "auto" else given
    if address not in ("auto", "local"):
        _check_answers(address)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except ConnectionError as error:
        raise _no_cluster(given) from error


def _check_answers(address: str) -> None:
    """Ray itself would look for minutes, and end the process."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address) from error


def _no_cluster(address: str) -> UserError:
    return UserError(
        f"sweep.address={address} has no Ray cluster that answers; run ray start --head there, "
        "give another HOST:PORT, or set sweep.address=local to start one for this sweep"
    )


def resources(setup: Setup) -> dict[str, Any]:
    """What Ray reserves for a task."""
    sweep = setup.sweep
    if setup.general.device == "tpu":
        return {"num_cpus": sweep.task_cpus, "resources": {"TPU": sweep.task_devices}}
    return {"num_cpus": sweep.task_cpus, "num_gpus": sweep.task_devices}


@dataclasses.dataclass(frozen=True)
class Order:
    """What a task is told.

    Attributes:
      folder: the sweep's, as all nodes see it.
      bundle: its name.
      cells: their identities, in the order of the bundle.
      shares, stacked: see Bundle.
      pinned: whether the process keeps to one core.
    """

    folder: str
    bundle: str
    cells: tuple[str, ...]
    shares: bool
    stacked: bool
    pinned: bool


class Tasks:
    """The tasks of a sweep and what becomes of them; `connect` comes first."""

    def __init__(self, setup: Setup, folder: Path, cells: Sequence[Cell]) -> None:
        self._setup, self._folder = on_nodes(setup), folder.absolute()
        self._bundles = plan.make_bundles(self._setup, cells)
        self._running: dict[Any, Bundle] = {}
        self._crashes: Counter[str] = Counter()

    def run(self, stop: Any) -> int:
        """Keep tasks going until every cell has a record; returns the exit status."""
        import ray

        sweeps.forget_dead(self._folder, self._setup.sweep.claim_seconds)
        display = Display(self._setup, self._folder, self._bundles)
        try:
            for bundle in timing.longest_first(self._bundles):
                self._submit(bundle)
            with display:
                while self._running:
                    if stop.wait(POLL_SECONDS):
                        return self._stop_all()
                    display.update()
                    for task in ray.wait(list(self._running), timeout=0)[0]:
                        self._ended(task)
        finally:
            ray.shutdown()
        return 0

    def _submit(self, bundle: Bundle) -> None:
        """Start a task for what is left of a bundle."""
        import ray

        if records.open_cells(self._folder, bundle.cells):
            # Retried here and not by Ray, which does not tell a lost node from a cell that crashes.
            task = ray.remote(max_retries=0, **resources(self._setup))(train_bundle)
            order = Order(
                folder=os.fspath(self._folder),
                bundle=bundle.name,
                cells=tuple(cell.id for cell in bundle.cells),
                shares=bundle.shares,
                stacked=bundle.stacked,
                pinned=plan.only_cpu(self._setup),
            )
            self._running[task.remote(order)] = bundle

    def _ended(self, task: Any) -> None:
        """A task that is done, or lost with its node, or has crashed."""
        import ray
        from ray import exceptions

        bundle = self._running.pop(task)
        try:
            ray.get(task)
        except exceptions.NodeDiedError:
            sweeps.forget_dead(self._folder, self._setup.sweep.claim_seconds)
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            self._crashed(bundle, str(error).splitlines()[0])
        except exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        self._submit(bundle)

    def _crashed(self, bundle: Bundle, reason: str) -> None:
        """Record the cell that was at work as failed when it has crashed too often."""
        left = records.open_cells(self._folder, bundle.cells)
        if not left:
            return
        self._crashes[left[0].id] += 1
        if self._crashes[left[0].id] >= self._setup.sweep.attempts:
            records.write_failed(self._folder, left[0], f"its Ray task ended: {reason}")

    def _stop_all(self) -> int:
        """Tell every task to save and end, and wait for them."""
        import ray

        for task in self._running:
            ray.cancel(task)
        ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_SECONDS)
        return EXIT_RESUMABLE


def on_nodes(setup: Setup) -> Setup:
    """The setup with the device that tasks get: this machine may have another."""
    if setup.general.device != "auto":
        return setup
    device = "gpu" if setup.sweep.task_devices else "cpu"
    return dataclasses.replace(setup, general=dataclasses.replace(setup.general, device=device))


def train_bundle(order: Order) -> int:
    """A task: train what is left of one bundle; returns the exit status of a worker.

    Raises:
      UserError: when the tokens on this node are not those of the sweep.
    """
    setup, cells, sessions = _prepare(order.folder, order.pinned)
    node = os.uname().nodename
    if not cells.keys() >= set(order.cells):
        raise UserError(
            f"data.source={setup.data.source} gives other tokens on node {node} than where the "
            "sweep was started; give all nodes the same files and the same Python"
        )
    own = tuple(cells[name] for name in order.cells)
    bundle = Bundle(order.bundle, own, shares=order.shares, stacked=order.stacked)
    with stop_on_signal() as stop:
        worker = f"{node}-{os.getpid()}-ray"
        return work.train(setup, Path(order.folder), worker, [bundle], sessions, stop)


@functools.cache
def _prepare(
    folder: str, pinned: bool
) -> tuple[Setup, dict[str, Cell], Callable[[Sequence], Session]]:
    """Once for all tasks that a process of Ray's gets."""
    if pinned:
        work.pin(0)
    setup, bundles, sessions = work.prepare(Path(folder))
    cells = {cell.id: cell for bundle in bundles for cell in bundle.cells}
    return setup, cells, functools.cache(sessions)
