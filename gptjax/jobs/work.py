"""job=work: join a sweep's folder with this machine's workers.

Also the process that `job=sweep` starts for each core: python -m gptjax.jobs.work --workdir=…
"""

import argparse
import ctypes
import fcntl
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def pin(preferred: int | None) -> None:
    """Keep this process on one core, so that the runtime starts one thread and not one a core.

    Results must not depend on how many threads a matrix product is split over. The core is one that
    no other process of gptjax holds, `preferred` of those there are if possible; it is held by a
    file lock that ends with the process.
    """
    if preferred is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    first = preferred % len(cores)
    ordered = [*cores[first:], *cores[:first]]
    free = (core for core in ordered if _lock_core(core))
    os.sched_setaffinity(0, {next(free, ordered[0])})


def _lock_core(core: int) -> bool:
    """Whether the core is ours now; the descriptor stays open."""
    place = Path(tempfile.gettempdir(), f"gptjax-cores-{os.getuid()}")
    try:
        place.mkdir(exist_ok=True)
        descriptor = os.open(place / str(core), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main(setup, folder: Path) -> int:
    """Start this machine's workers on the cells of `folder`; ends when all have records."""
    from gptjax import build
    from gptjax.jobs import plan, sweep, tuned, workdir

    setup = tuned.resolved(setup, _existing(folder))
    workdir.open_workdir(setup, folder)
    cells = plan.make_cells(setup, build.load_corpus(setup))
    return sweep.train_here(setup, folder, cells)


def work(folder: Path, name: str) -> int:
    """Train the open bundles of a folder on this process's devices; returns the exit status."""
    from gptjax.train import stop_on_signal

    with stop_on_signal() as stop:
        setup, bundles, make_session = prepare(folder)
        return train(setup, folder, name, bundles, make_session, stop)


def prepare(folder: Path) -> tuple[Any, list, Callable[[Sequence], Any]]:
    """Start JAX; the setup that made a folder, its bundles, what makes Sessions for devices."""
    from gptjax import build
    from gptjax.jobs import plan, workdir
    from gptjax.jobs.devices import start_backend
    from gptjax.sweeps import session_on

    setup = workdir.saved_setup(folder)
    start_backend(setup)
    build.enable_compilation_cache(setup)
    corpus = build.load_corpus(setup)
    bundles = plan.make_bundles(setup, plan.make_cells(setup, corpus))
    return setup, bundles, lambda devices: session_on(corpus, setup.sweep, setup.train, devices)


def train(
    setup: Any,
    folder: Path,
    name: str,
    bundles: Sequence,
    make_session: Callable[[Sequence], Any],
    stop: Callable[[], bool],
) -> int:
    """Train what is open of these bundles; returns the exit status."""
    import jax

    from gptjax import sweeps
    from gptjax.train import EXIT_RESUMABLE, Interrupted

    options = sweeps.WorkerOptions(
        name=name,
        attempts=setup.sweep.attempts,
        claim_seconds=setup.sweep.claim_seconds,
        compile_ahead=jax.default_backend() != "cpu",
    )
    devices = jax.local_devices()
    sizes = sweeps.sizes_of(setup.sweep, devices)
    try:
        sweeps.work_on_devices(folder, bundles, make_session, options, stop, devices, sizes)
    except Interrupted:
        return EXIT_RESUMABLE
    return EXIT_RESUMABLE if stop() else 0


def _existing(folder: Path) -> Path:
    from gptjax.errors import UserError

    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds no sweep to join; start job=sweep there first")
    return folder


def _process() -> int:
    """The entry of a process that job=sweep started."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--core", type=int, default=None)
    options = parser.parse_args()
    die_with_parent()
    pin(options.core)
    from gptjax.errors import UserError

    try:
        return work(options.workdir, options.name)
    except UserError as error:
        print(f"gptjax: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_process())
