"""What a tuning found, in the place of the wish to tune."""

import dataclasses
from pathlib import Path

from gptjax.build import Setup
from gptjax.files import read_json
from gptjax.sweeps import Tuned


def resolved(setup: Setup, folder: Path) -> Setup:
    """The setup with what an earlier tuning in `folder` found, if it asks for one."""
    path = folder / "tune.json"
    if not setup.sweep.tune or not path.exists():
        return setup
    found = read_json(path)
    return applied(setup, Tuned(**{f.name: found[f.name] for f in dataclasses.fields(Tuned)}))


def applied(setup: Setup, tuned: Tuned) -> Setup:
    """The setup with what was found in the place of the wish to tune."""
    sweep, optim = tuned.applied(setup.sweep, setup.optim)
    return dataclasses.replace(setup, sweep=sweep, optim=optim)
