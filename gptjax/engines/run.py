"""Training of cells by the engine that the config names."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax.config import Config
from gptjax.engines import ray
from gptjax.engines.local import Workers
from gptjax.sweeps import Cell
from gptjax.train import EXIT_RESUMABLE, stop_on_signal


def reach_engine(config: Config) -> None:
    """Refuse an engine that is not there, before anything is written."""
    if config.sweep.engine == "ray":
        ray.connect(config)


def train(config: Config, folder: Path, cells: Sequence[Cell]) -> int:
    """Train every cell without a record by the engine of the config; returns the exit status."""
    if config.sweep.engine == "local":
        return train_here(config, folder, cells)
    return _keep_going(ray.Tasks(config, folder, cells))


def train_here(config: Config, folder: Path, cells: Sequence[Cell]) -> int:
    """The same by processes of this machine."""
    return _keep_going(Workers(config, folder, cells))


def _keep_going(engine: Any) -> int:
    with stop_on_signal() as stop:
        status = engine.run(stop)
    if status == EXIT_RESUMABLE:
        print("stopped; the same command continues from here", file=sys.stderr)
    return status
