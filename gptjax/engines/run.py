"""Training of cells by the engine that the config names.

An engine is a module with `connect`, `on_workers` and `Workers`, and `sharer` for other work;
`sweeps.config.ENGINES` lists them.
"""

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax.config import Config
from gptjax.engines import local
from gptjax.engines.cells import Plan, make_plan, write_plan
from gptjax.sweeps import Cell
from gptjax.sweeps.config import ENGINES
from gptjax.train import EXIT_RESUMABLE, stop_on_signal


def reach_engine(config: Config) -> None:
    """Refuse an engine that is not there, before anything is written."""
    _engine(config).connect(config)


def train(config: Config, folder: Path, cells: Sequence[Cell]) -> int:
    """Write the plan of these cells and train those without a record; returns the exit status."""
    engine = _engine(config)
    config = engine.on_workers(config)
    plan = make_plan(config, cells)
    write_plan(folder, plan)
    return _keep_going(engine.Workers(config, folder, plan.bundles))


def join(config: Config, folder: Path, plan: Plan) -> int:
    """Train what is open of a folder's plan by processes of this machine."""
    return _keep_going(local.Workers(config, folder, plan.bundles))


def _engine(config: Config) -> Any:
    return importlib.import_module(ENGINES[config.sweep.engine])


def _keep_going(workers: Any) -> int:
    with stop_on_signal() as stop:
        status = workers.run(stop)
    if status == EXIT_RESUMABLE:
        print("stopped; the same command continues from here", file=sys.stderr)
    return status
