"""Parameters in the checkpoints of a training run, without the run's code.

Of a state that Orbax wrote, only the parameters are read, and the optimizer's state where the
parameters that are evaluated lie in it (a weight average, schedule-free).
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from optax.contrib import ScheduleFreeState

from gptjax.convert.own_folder import Description
from gptjax.convert.registry import KINDS
from gptjax.convert.tensor_map import by_path, shapes_of
from gptjax.errors import UserError
from gptjax.optim import eval_params
from gptjax.optim.ema import AverageState

ITEM = "default"
"""The folder inside a step's that Orbax puts the state into."""


def read_params(place: Path, said: Description) -> Any:
    """The parameters to evaluate, of the best checkpoint below a folder, else of the last.

    Args:
      place: `checkpoints` of a run, one kind of them, or one step.

    Raises:
      UserError: where there is no checkpoint, or it is of another model.
    """
    import orbax.checkpoint as ocp

    state = newest(place)
    reader = ocp.PyTreeCheckpointer()
    tree = reader.metadata(state.absolute()).item_metadata.tree
    names = ["params", *(["opt_state"] if _typed(tree["opt_state"]) != tree["opt_state"] else [])]
    wanted = {name: tree[name] for name in names}
    options = jax.tree.map(lambda leaf: ocp.RestoreArgs(restore_type=np.ndarray), wanted)
    asked = ocp.args.PyTreeRestore(item=wanted, restore_args=options, partial_restore=True)
    found = reader.restore(state.absolute(), args=asked)
    params = eval_params(_typed(found.get("opt_state", ())), found["params"])
    return _checked(params, said, state)


def newest(place: Path) -> Path:
    """The folder of the best state below `place`, else of the one with the highest step."""
    found = [
        path
        for path in (place.parent if place.name == ITEM else place).rglob(ITEM)
        if path.parent.name.isdigit() and (path.parent / "_CHECKPOINT_METADATA").exists()
    ]
    if not found:
        raise UserError(f"{place} holds no checkpoint; run job=train there, or give its folder")

    def order(path: Path) -> tuple[bool, int]:
        return path.parent.parent.name == "best", int(path.parent.name)

    return max(found, key=order)


def _typed(tree: Any) -> Any:
    """A restored optimizer state with the named tuples that `eval_params` looks for."""
    if isinstance(tree, dict):
        for kind in (AverageState, ScheduleFreeState):
            if set(tree) == set(kind._fields):
                return kind(**tree)
        return {name: _typed(part) for name, part in tree.items()}
    return [_typed(part) for part in tree] if isinstance(tree, list | tuple) else tree


def _checked(params: Any, said: Description, state: Path) -> Any:
    shapes = shapes_of(KINDS[said.kind].init, said.config)
    got, wanted = by_path(params), by_path(shapes)
    for path, leaf in wanted.items():
        if path not in got or got[path].shape != leaf.shape:
            raise UserError(
                f"{state} has no parameter {path} of shape {leaf.shape}; it is of another model"
            )
    leaves = [np.asarray(got[path], leaf.dtype) for path, leaf in wanted.items()]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
