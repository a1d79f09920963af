"""Tuned configs: `sweep.tune` replaced by the rates that a tuning found."""

import dataclasses
from pathlib import Path

from gptjax.config import Config
from gptjax.files import read_json
from gptjax.sweeps import Tuned


def resolved(config: Config, folder: Path) -> Config:
    """The config with what an earlier tuning in `folder` found, if it asks for one."""
    path = folder / "tune.json"
    if not config.sweep.tune or not path.exists():
        return config
    found = read_json(path)
    return applied(config, Tuned(**{f.name: found[f.name] for f in dataclasses.fields(Tuned)}))


def applied(config: Config, tuned: Tuned) -> Config:
    """The config with what was found in the place of the wish to tune."""
    sweep, optim = tuned.applied(config.sweep, config.optim)
    return dataclasses.replace(config, sweep=sweep, optim=optim)
