"""A worker process: python -m gptjax.engines.process --workdir=... --name=...

The core comes before anything else is imported, so that the runtime starts one thread.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax.engines.cores import die_with_parent, one_device_a_process, pin
from gptjax.terminal import adapt_streams


def work(folder: Path, name: str) -> int:
    """Train the open bundles of a folder on this process's devices; returns the exit status."""
    from gptjax.engines.cells import read_plan
    from gptjax.train import stop_on_signal

    with stop_on_signal() as stop:
        config, corpus = prepare(folder)
        return train(config, corpus, folder, name, read_plan(folder).bundles, stop)


def register(experiment: str) -> None:
    """Run the experiment of the command, for the sake of what it registers.

    Raises:
      UserError: where this machine has no such file, or it fails.
    """
    if experiment:
        from gptjax.experiment import load

        load(experiment)


def prepare(folder: Path) -> tuple[Any, Any]:
    """Start JAX; the config that made a folder, and its corpus."""
    from gptjax.config import enable_compilation_cache, load_corpus
    from gptjax.engines import workdir
    from gptjax.engines.devices import start_backend

    config = workdir.saved_config(folder)
    start_backend(config)
    enable_compilation_cache(config)
    return config, load_corpus(config)


def train(
    config: Any,
    corpus: Any,
    folder: Path,
    name: str,
    bundles: Sequence[Any],
    stop: Callable[[], bool],
) -> int:
    """Train what is open of these bundles; returns the exit status.

    Raises:
      UserError: when the tokens here are not those of the plan.
    """
    import jax

    from gptjax.engines import worker
    from gptjax.engines.cell_scores import scorer
    from gptjax.errors import UserError
    from gptjax.sweeps import session_on, sizes_of
    from gptjax.train import EXIT_RESUMABLE, Interrupted

    if any(cell.corpus != corpus.fingerprint for bundle in bundles for cell in bundle.cells):
        raise UserError(
            f"data.source={config.data.source} gives other tokens on {os.uname().nodename} than "
            "where the sweep was started; give all machines the same files and the same Python"
        )

    def session(devices: Sequence[Any]) -> Any:
        return session_on(corpus, config.sweep, config.train, devices)

    options = worker.WorkerOptions(
        name=name,
        attempts=config.sweep.attempts,
        claim_seconds=config.sweep.claim_seconds,
        compile_ahead=jax.default_backend() != "cpu",
        score=scorer(config),
    )
    devices = jax.local_devices()
    sizes = sizes_of(config.sweep, devices)
    try:
        worker.work_on_devices(folder, bundles, session, options, stop, devices, sizes)
    except Interrupted:
        return EXIT_RESUMABLE
    return EXIT_RESUMABLE if stop() else 0


def _process() -> int:
    """The entry of a process that job=sweep started."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--name", required=True)
    parser.add_argument("--core", type=int, default=None)
    parser.add_argument("--experiment", default="")
    options = parser.parse_args()
    adapt_streams()
    die_with_parent()
    pin(options.core)
    one_device_a_process()
    from gptjax.errors import UserError

    try:
        register(options.experiment)
        return work(options.workdir, options.name)
    except UserError as error:
        print(f"gptjax: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(_process())
