"""Ray: the bundles of a sweep, and calls of any function, as tasks of a cluster.

https://docs.ray.io; `sweep.engine=ray` and `clean.engine=ray`.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax.config import Config
from gptjax.engines import cores, process
from gptjax.engines.cells import read_plan
from gptjax.engines.display import Display
from gptjax.engines.retries import Retries
from gptjax.engines.worker import forget_dead
from gptjax.errors import UserError
from gptjax.sweeps import Bundle, records, timing
from gptjax.train import EXIT_RESUMABLE, stop_on_signal

POLL_SECONDS = 0.25
ANSWER_SECONDS = 5.0
STOP_SECONDS = 60.0


def connect(config: Config) -> None:
    """Join the cluster of `sweep.address`.

    Raises:
      UserError: as `join`.
    """
    join(config.sweep.address, "sweep")


def join(given: str, section: str) -> None:
    """Join the cluster of a section's `address`.

    Raises:
      UserError: when Ray is not installed or no cluster answers.
    """
    if importlib.util.find_spec("ray") is None:
        raise UserError(
            f"{section}.engine=ray needs Ray; pip install 'gptjax[ray]' or set "
            f"{section}.engine=local"
        )
    import ray

    address = os.environ.get("RAY_ADDRESS", "auto") if given == "auto" else given
    if address not in ("auto", "local"):
        _check_answers(address, section)
    try:
        ray.init(address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except ConnectionError as error:
        raise _no_cluster(given, section) from error


def _check_answers(address: str, section: str) -> None:
    """Ray itself would look for minutes, and end the process."""
    host, _, port = address.rpartition("//")[2].rpartition(":")
    try:
        socket.create_connection((host, int(port)), ANSWER_SECONDS).close()
    except (OSError, ValueError) as error:
        raise _no_cluster(address, section) from error


def _no_cluster(address: str, section: str) -> UserError:
    return UserError(
        f"{section}.address={address} has no Ray cluster that answers; run ray start --head there, "
        f"give another HOST:PORT, or set {section}.address=local to start one for this {section}"
    )


def sharer(address: str, section: str) -> Callable[..., None]:
    """`share_out` on the cluster of a section's `address`.

    Raises:
      UserError: as `join`.
    """
    join(address, section)
    return share_out


def share_out(work: Callable[..., None], calls: Sequence[tuple]) -> None:
    """Make the calls as tasks of one core each, in this process's folder; `join` comes first.

    Ray starts a task again whose node was lost: the work must do nothing twice.

    Raises:
      UserError: the first that a task raises; the others are cancelled.
    """
    import ray
    from ray import exceptions

    task = ray.remote(num_cpus=1)(_in_folder)
    left = [task.remote(os.getcwd(), work, call) for call in calls]
    try:
        while left:
            done, left = ray.wait(left)
            ray.get(done)
    except exceptions.RayTaskError as error:
        raise error.cause if isinstance(error.cause, UserError) else error from None
    finally:
        for one in left:
            ray.cancel(one)


def _in_folder(folder: str, work: Callable[..., None], call: tuple) -> None:
    """A task: a call that may name files from `folder` on."""
    os.chdir(folder)
    work(*call)


def resources(config: Config) -> dict[str, Any]:
    """Resources that Ray reserves for a task."""
    sweep = config.sweep
    if config.general.device == "tpu":
        return {"num_cpus": sweep.task_cpus, "resources": {"TPU": sweep.task_devices}}
    return {"num_cpus": sweep.task_cpus, "num_gpus": sweep.task_devices}


@dataclasses.dataclass(frozen=True)
class Order:
    """The arguments of a task.

    Attributes:
      folder: the sweep's, as all nodes see it.
      bundle: its name.
      pinned: whether the process keeps to one core.
      experiment: the file that the node runs too, for what it registers; '' for none.
    """

    folder: str
    bundle: str
    pinned: bool
    experiment: str = ""


class Workers:
    """The tasks of a sweep and what becomes of them; `connect` comes first."""

    def __init__(self, config: Config, folder: Path, bundles: Sequence[Bundle]) -> None:
        self._config, self._folder, self._bundles = config, folder.absolute(), bundles
        self._running: dict[Any, Bundle] = {}
        self._retries = Retries(self._folder, config.sweep.attempts)

    def run(self, stop: Any) -> int:
        """Keep tasks going until every cell has a record; returns the exit status."""
        import ray

        forget_dead(self._folder, self._config.sweep.claim_seconds)
        display = Display(self._config, self._folder, self._bundles)
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
            task = ray.remote(max_retries=0, **resources(self._config))(train_bundle)
            order = Order(
                folder=os.fspath(self._folder),
                bundle=bundle.name,
                pinned=cores.only_cpu(self._config),
                experiment=self._config.experiment_file,
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
            forget_dead(self._folder, self._config.sweep.claim_seconds)
        except (exceptions.WorkerCrashedError, exceptions.OutOfMemoryError) as error:
            self._crashed(bundle, str(error).splitlines()[0])
        except exceptions.RayTaskError as error:
            raise error.cause if isinstance(error.cause, UserError) else error from None
        self._submit(bundle)

    def _crashed(self, bundle: Bundle, reason: str) -> None:
        """Record the cell that was at work as failed when it has crashed too often."""
        left = records.open_cells(self._folder, bundle.cells)
        if left:
            self._retries.crashed(left[0], f"its Ray task ended: {reason}")

    def _stop_all(self) -> int:
        """Tell every task to save and end, and wait for them."""
        import ray

        for task in self._running:
            ray.cancel(task)
        ray.wait(list(self._running), num_returns=len(self._running), timeout=STOP_SECONDS)
        return EXIT_RESUMABLE


def on_workers(config: Config) -> Config:
    """The config with the device that tasks get: this machine may have another."""
    if config.general.device != "auto":
        return config
    device = "gpu" if config.sweep.task_devices else "cpu"
    return dataclasses.replace(config, general=dataclasses.replace(config.general, device=device))


def train_bundle(order: Order) -> int:
    """A task: train what is left of one bundle; returns the exit status of a worker.

    Raises:
      UserError: when the tokens on this node are not those of the sweep.
    """
    folder = Path(order.folder)
    config, corpus = _prepare(order.folder, order.pinned, order.experiment)
    bundles = [one for one in read_plan(folder).bundles if one.name == order.bundle]
    with stop_on_signal() as stop:
        worker = f"{os.uname().nodename}-{os.getpid()}-ray"
        return process.train(config, corpus, folder, worker, bundles, stop)


@functools.cache
def _prepare(folder: str, pinned: bool, experiment: str) -> tuple[Config, Any]:
    """Once for all tasks that a process of Ray's gets: config and corpus."""
    cores.one_device_a_process()
    if pinned:
        cores.pin(0)
    _register(experiment)
    return process.prepare(Path(folder))


_register = functools.cache(process.register)
"""Once in a process, whatever folders its tasks are of."""
