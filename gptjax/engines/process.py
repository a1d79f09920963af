"""A worker process: python -m gptjax.engines.process --workdir=... --name=...

The core comes before anything else is imported, so that the runtime starts one thread.
"""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax.engines.cores import die_with_parent, one_device_a_process, pin


def work(folder: Path, name: str) -> int:
    """Train the open bundles of a folder on this process's devices; returns the exit status."""
    from gptjax.train import stop_on_signal

    with stop_on_signal() as stop:
        config, bundles, make_session = prepare(folder)
        return train(config, folder, name, bundles, make_session, stop)


def prepare(folder: Path) -> tuple[Any, list, Callable[[Sequence], Any]]:
    """Start JAX; the config that made a folder, its bundles, what makes Sessions for devices."""
    from gptjax.config import enable_compilation_cache, load_corpus
    from gptjax.engines import workdir
    from gptjax.engines.cells import make_bundles, make_cells
    from gptjax.engines.devices import start_backend
    from gptjax.sweeps import session_on

    config = workdir.saved_config(folder)
    start_backend(config)
    enable_compilation_cache(config)
    corpus = load_corpus(config)
    bundles = make_bundles(config, make_cells(config, corpus))
    return config, bundles, lambda devices: session_on(corpus, config.sweep, config.train, devices)


def train(
    config: Any,
    folder: Path,
    name: str,
    bundles: Sequence,
    make_session: Callable[[Sequence], Any],
    stop: Callable[[], bool],
) -> int:
    """Train what is open of these bundles; returns the exit status."""
    import jax

    from gptjax.engines import worker
    from gptjax.sweeps import sizes_of
    from gptjax.train import EXIT_RESUMABLE, Interrupted

    options = worker.WorkerOptions(
        name=name,
        attempts=config.sweep.attempts,
        claim_seconds=config.sweep.claim_seconds,
        compile_ahead=jax.default_backend() != "cpu",
    )
    devices = jax.local_devices()
    sizes = sizes_of(config.sweep, devices)
    try:
        worker.work_on_devices(folder, bundles, make_session, options, stop, devices, sizes)
    except Interrupted:
        return EXIT_RESUMABLE
    return EXIT_RESUMABLE if stop() else 0


def _process() -> int:
    """The entry of a process that job=sweep started."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--core", type=int, default=None)
    options = parser.parse_args()
    die_with_parent()
    pin(options.core)
    one_device_a_process()
    from gptjax.errors import UserError

    try:
        return work(options.workdir, options.name)
    except UserError as error:
        print(f"gptjax: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_process())
