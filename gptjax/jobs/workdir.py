"""The folder of a run: which config made it, and refusing another one."""

from pathlib import Path
from typing import Any

from gptjax.build import SECTIONS, Setup, make_setup, to_mapping
from gptjax.errors import UserError
from gptjax.fields import flattened, upgraded
from gptjax.files import finite, read_json, write_json

EXECUTION_ONLY = {
    "data": {"cache_dir"},
    "train": {
        "feed",
        "device_data_gb",
        "checkpoint_seconds",
        "hang_seconds",
        "keep_last",
        "keep_best",
        "log_seconds",
        "tensorboard",
        "wandb",
    },
    "sweep": {
        "engine",
        "address",
        "task_cpus",
        "task_devices",
        "workers",
        "attempts",
        "claim_seconds",
        "price_per_device_hour",
    },
}
"""Settings that change no result, and so may differ when a folder is opened again."""

SCIENCE = ("data", "model", "optim", "train", "sweep", "compare")


def open_workdir(setup: Setup, folder: Path) -> None:
    """Create the folder for this config, or check that it was made by it.

    Raises:
      UserError: when another config made it, or it cannot be written.
    """
    path = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={folder} is a file; give a folder")
    if path.exists():
        check_same(setup, folder)
    elif folder.exists() and any((folder / name).exists() for name in ("records", "runs.csv")):
        raise UserError(
            f"--workdir={folder} holds records but no config.json, so it cannot be told which "
            "config made them; choose another --workdir"
        )
    else:
        write_json(path, to_mapping(setup))


def check_same(setup: Setup, folder: Path) -> None:
    """Refuse a folder that another config made, naming the first difference."""
    found = read_json(folder / "config.json")
    if not isinstance(found, dict):
        raise UserError(f"{folder / 'config.json'} is not a config; choose another --workdir")
    asked = finite(to_mapping(setup))
    for section in SCIENCE:
        before = flattened(upgraded(SECTIONS[section], found.get(section, {})))
        for name, value in flattened(asked[section]).items():
            if name in EXECUTION_ONLY.get(section, ()):
                continue
            made_with = before.get(name)
            if made_with != value:
                raise UserError(
                    f"--workdir={folder} was made with {section}.{name}={_words(made_with)}, not "
                    f"{_words(value)}; choose another --workdir or delete it"
                )


def saved_setup(folder: Path) -> Setup:
    """The config that made a folder.

    Raises:
      UserError: when there is none.
    """
    if not (folder / "config.json").exists():
        raise UserError(f"--workdir={folder} holds no sweep (no config.json); run job=sweep first")
    found = read_json(folder / "config.json")
    if not isinstance(found, dict):
        raise UserError(f"{folder / 'config.json'} is not a config; choose another --workdir")
    old = {name: value for name, value in found.items() if name in SECTIONS}
    return make_setup({**found, **{name: upgraded(SECTIONS[name], old[name]) for name in old}})


def _words(value: Any) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
