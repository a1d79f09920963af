"""The written plan: the cells of a folder and the bundles in which workers take them.

Workers read `cells.json` and plan nothing themselves, so that one plan is trained however it was
made.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax import identity, sweeps
from gptjax.config import Config, check_repeats, make_model, of_data
from gptjax.data import Corpus
from gptjax.engines.cores import only_cpu
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.sweeps import Bundle, Cell
from gptjax.train import RunSpec

PLAN = "cells.json"
SCHEMA = 1
STACK_ON_ACCELERATORS = 16


def make_cells(config: Config, corpus: Corpus) -> list[Cell]:
    """The cells of a sweep on a corpus.

    Raises:
      UserError: for a plan from which no law can be identified, or whose cells cannot be trained.
    """
    cells = sweeps.make_plan(
        config.sweep,
        make_model(config, corpus),
        config.optim,
        config.train,
        corpus.fingerprint,
        **of_data(config, corpus),
    )
    check_repeats(config, corpus, *(cell.run for cell in cells))
    return cells


def make_bundles(config: Config, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells as workers take them."""
    stack = config.sweep.stack or (1 if only_cpu(config) else STACK_ON_ACCELERATORS)
    if config.sweep.quantize_bits or config.sweep.tasks:
        stack = 1  # the weights of a stack's members are not handed out
    return sweeps.make_bundles(dataclasses.replace(config.sweep, stack=stack), config.train, cells)


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cells in the order of their config, and the bundles in which they are trained."""

    cells: tuple[Cell, ...]
    bundles: tuple[Bundle, ...]


def make_plan(config: Config, cells: Sequence[Cell]) -> Plan:
    """The plan of these cells for the workers of a config."""
    return Plan(tuple(cells), tuple(make_bundles(config, cells)))


def write_plan(folder: Path, plan: Plan) -> None:
    """Write a plan, whole: canonical forms of cells, and bundles that name them."""
    cells = {
        cell.id: {"run": cell.run.canonical, "corpus": cell.corpus, "budget": cell.budget}
        for cell in plan.cells
    }
    bundles = [
        {
            "name": bundle.name,
            "cells": [cell.id for cell in bundle.cells],
            "shares": bundle.shares,
            "stacked": bundle.stacked,
        }
        for bundle in plan.bundles
    ]
    write_json(folder / PLAN, {"schema": SCHEMA, "cells": cells, "bundles": bundles})


def read_plan(folder: Path) -> Plan:
    """The plan of a folder.

    Raises:
      UserError: when there is none, or a cell is not what it is named by.
    """
    path = folder / PLAN
    found = read_json(path)
    try:
        cells = {name: _cell(one, path) for name, one in found["cells"].items()}
        bundles = tuple(
            Bundle(
                one["name"],
                tuple(cells[name] for name in one["cells"]),
                shares=one["shares"],
                stacked=one["stacked"],
            )
            for one in found["bundles"]
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(path) from error
    if found.get("schema") != SCHEMA or any(cell.id != name for name, cell in cells.items()):
        raise _damaged(path)
    return Plan(tuple(cells.values()), bundles)


def has_plan(folder: Path) -> bool:
    """Whether a plan was written into a folder; earlier versions wrote none."""
    return (folder / PLAN).exists()


def _cell(found: Any, path: Path) -> Cell:
    run = identity.rebuilt(RunSpec, found["run"], str(path))
    return Cell(run=run, corpus=found["corpus"], budget=found["budget"])


def _damaged(path: Path) -> UserError:
    return UserError(f"{path} is damaged; run job=sweep there again, which writes it anew")
