"""job=work: join a sweep's folder with this machine's workers.

Also the process that `job=sweep` starts for each core: python -m gptjax.jobs.work --workdir=…
"""

import argparse
import ctypes
import os
import signal
import sys
from pathlib import Path


def pin(core: int | None) -> None:
    """Keep this process on one core, so that the runtime starts one thread and not one a core.

    Results must not depend on how many threads a matrix product is split over.
    """
    if core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def main(setup, folder: Path) -> int:
    """Start this machine's workers on the cells of `folder`; ends when all have records."""
    from gptjax import build
    from gptjax.jobs import plan, sweep, tuned, workdir
    from gptjax.train import stop_on_signal

    setup = tuned.resolved(setup, _existing(folder))
    workdir.check_same(setup, folder)
    cells = plan.make_cells(setup, build.load_corpus(setup))
    with stop_on_signal() as stop:
        return sweep.Workers(setup, folder, cells).run(stop)


def work(folder: Path, name: str) -> int:
    """Train the open bundles of a folder on this process's devices; returns the exit status."""
    import jax

    from gptjax import build, sweeps
    from gptjax.jobs import plan, workdir
    from gptjax.jobs.devices import start_backend
    from gptjax.sweeps import timing
    from gptjax.train import EXIT_RESUMABLE, Interrupted, Session, stop_on_signal

    setup = workdir.saved_setup(folder)
    with stop_on_signal() as stop:
        start_backend(setup)
        build.enable_compilation_cache(setup)
        corpus = build.load_corpus(setup)
        bundles = timing.longest_first(plan.make_bundles(setup, plan.make_cells(setup, corpus)))
        options = sweeps.WorkerOptions(
            name=name, attempts=setup.sweep.attempts, claim_seconds=setup.sweep.claim_seconds
        )
        try:
            sweeps.work_on_devices(
                folder, bundles, lambda: Session(corpus, setup.train), options, stop,
                jax.local_devices(),
            )  # fmt: skip
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
