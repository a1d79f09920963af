"""Workdir of a run: the config that made it, and the refusal of another one."""

import dataclasses
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gptjax import identity
from gptjax.config import Config, load_corpus, make_config
from gptjax.errors import UserError
from gptjax.files import read_json, write_json
from gptjax.sweeps import Cell, SweepConfig, records

EXECUTION_ONLY = {
    "data": {"cache_dir", "processes"},
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
        "retry_failed",
        "mixed",
        "price_per_device_hour",
    },
}
"""Settings that change no result, and so may differ when a folder is opened again."""

PLACES = {"data": {"path", "sources", "tokenizer_path"}}
"""Settings that say where something lies: they may differ where the tokens are the same."""

TOKENS = "tokens.json"
"""The file that keeps the fingerprint of a folder's tokens."""

REASONS = {
    "train.eval_batch_size": "products of another batch differ in their last digits, and with them "
    "the held-out loss",
}
"""Why a setting that changes no training step is refused all the same, by its name."""

SCORING = "scoring.json"
"""The file that keeps the settings by which cells are scored besides, for worker processes."""

SCORED_BY: dict[str, Callable[[SweepConfig], object]] = {
    "quantize": lambda sweep: sweep.quantize_bits,
    "evaluate": lambda sweep: sweep.tasks,
}
"""Sections of single jobs that a sweep's cells are scored by, and what asks for it."""

SCIENCE = ("data", "model", "optim", "train", "sweep", "compare")


def open_workdir(
    config: Config,
    folder: Path,
    cells: Sequence[Cell] = (),
    fingerprint: str = "",
) -> None:
    """Create the folder for this config, or check that it was made by it.

    Where `config.json` is damaged or gone, it is written again if the records that are there are
    those of `cells`.

    Args:
      fingerprint: of what the folder's runs are trained on; that of the config's corpus by default.

    Raises:
      UserError: when another config made it, or it cannot be written.
    """
    path = folder / "config.json"
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--workdir={folder} is a file; give a folder")
    if _holds_records_of(folder, cells) and not _is_mapping(path):
        print(f"{path} is damaged or gone and is written again: the records are of these settings")
        write_json(path, identity.saved(config))
    if path.exists():
        check_same(config, folder, fingerprint)
        _adopt_version_1(folder)
    elif folder.exists() and any((folder / name).exists() for name in ("records", "runs.csv")):
        raise UserError(
            f"--workdir={folder} holds records but no config.json, so it cannot be told which "
            "config made them; give the settings that made them or choose another --workdir"
        )
    else:
        write_json(path, identity.saved(config))
        write_json(folder / TOKENS, {"fingerprint": _of_now(config, fingerprint)})
    _keep_scoring(config, folder)


def _keep_scoring(config: Config, folder: Path) -> None:
    """Write the settings that cells are scored by; refuse others where some were scored.

    Folders of earlier versions scored by the defaults.
    """
    asked = [name for name, wanted in SCORED_BY.items() if wanted(config.sweep)]
    made = json.loads(json.dumps({name: dataclasses.asdict(config.own[name]) for name in asked}))
    if not made:
        return
    if any((folder / "records").glob("*.json")):
        plain = json.loads(
            json.dumps({n: dataclasses.asdict(type(config.own[n])()) for n in asked})
        )
        before = {**plain, **_scoring(folder)}
        for name in asked:
            for key, value in made[name].items():
                if value != before[name].get(key):
                    raise UserError(
                        f"--workdir={folder} was made with {name}.{key}={before[name].get(key)}, "
                        f"not {value}; choose another --workdir or delete it"
                    )
    write_json(folder / SCORING, made)


def _scoring(folder: Path) -> dict[str, Any]:
    path = folder / SCORING
    found = read_json(path) if path.exists() else {}
    return found if isinstance(found, dict) else {}


def _holds_records_of(folder: Path, cells: Sequence[Cell]) -> bool:
    """Whether there are records, and all are of these cells."""
    names = {path.stem for path in (folder / "records").glob("*.json")}
    return bool(names) and names <= {cell.id for cell in cells}


def _is_mapping(path: Path) -> bool:
    try:
        return isinstance(read_json(path), dict)
    except UserError:
        return False


def check_same(config: Config, folder: Path, given: str = "") -> None:
    """Refuse a folder that another config made, naming the first difference.

    Files may have moved: the fingerprint of the tokens (`given`, or that of the config's corpus)
    decides, and the folder takes the new place.
    """
    made_by = saved_config(folder)
    moved = []
    for leaf in identity.leaves(Config):
        section, name = leaf.path[0], ".".join(leaf.path[1:])
        if section not in SCIENCE or name in EXECUTION_ONLY.get(section, ()):
            continue
        if leaf.value(made_by) == leaf.value(config):
            continue
        if name not in PLACES.get(section, ()):
            raise _another(folder, leaf, made_by, config)
        moved.append(leaf)
    if moved:
        fingerprint = _fingerprint(folder)
        if fingerprint is None or _of_now(config, given) != fingerprint:
            raise _another(folder, moved[0], made_by, config)
        places = {leaf.path[-1]: getattr(config.data, leaf.path[-1]) for leaf in moved}
        here = dataclasses.replace(made_by, data=dataclasses.replace(made_by.data, **places))
        write_json(folder / "config.json", identity.saved(here))


def _of_now(config: Config, given: str) -> str:
    return given or load_corpus(config).fingerprint


def _another(folder: Path, leaf: identity.Leaf, made_by: Config, config: Config) -> UserError:
    made_with, asked = (_words(leaf.today(leaf.value(one))) for one in (made_by, config))
    why = f" ({REASONS[leaf.name]})" if leaf.name in REASONS else ""
    return UserError(
        f"--workdir={folder} was made with {leaf.name}={made_with}, not {asked}{why}; choose "
        "another --workdir or delete it"
    )


def _fingerprint(folder: Path) -> str | None:
    """The fingerprint of the tokens that a folder was made with; None where it says none."""
    path = folder / TOKENS
    found = read_json(path) if path.exists() else {}
    return found.get("fingerprint") if isinstance(found, dict) else None


def saved_config(folder: Path) -> Config:
    """The config that made a folder, by this or an earlier version.

    Raises:
      UserError: when there is none, or it cannot be used.
    """
    path = folder / "config.json"
    if not path.exists():
        raise UserError(f"--workdir={folder} holds no sweep (no config.json); run job=sweep first")
    if any((folder / "records").glob("*.json")) and not _is_mapping(path):
        raise UserError(
            f"{path} is damaged; run job=sweep with the settings that made the folder, which "
            "writes it again"
        )
    found = read_json(path)
    if not isinstance(found, dict):
        raise UserError(f"{path} is not a config; choose another --workdir")
    values = identity.restored(Config, found, str(path))
    return make_config({**values.pop("general"), **values, **_scoring(folder)})


def _adopt_version_1(folder: Path) -> None:
    """Name the records of version 1, which hashed every field, as they are named now.

    Checkpoints keep their old names and are not found: what is left begins anew, with the same
    bits.
    """
    if read_json(folder / "config.json").get("schema", 1) == 1 and (folder / "records").is_dir():
        made_by, count = saved_config(folder), records.adopt_version_1(folder)
        write_json(folder / "config.json", identity.saved(made_by))
        print(f"--workdir={folder} was made by an earlier gptjax; its {count} records are kept")


def _words(value: Any) -> str:
    return f"({', '.join(map(str, value))})" if isinstance(value, list) else str(value)
