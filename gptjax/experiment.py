"""Experiment files and command-line overrides, as a plain mapping of settings."""

import importlib.util
import re
import traceback
from collections.abc import Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from gptjax import config as configs
from gptjax.config import MOVED, General
from gptjax.early import experiment_file
from gptjax.errors import UserError
from gptjax.fields import former, from_text
from gptjax.setting_names import Names, unknown


def load(experiment: str) -> dict[str, Any]:
    """The settings of `FILE` or `FILE:TEXT`, as `get_config()` returns them.

    Raises:
      UserError: when the file is missing, is not Python, has no `get_config` or fails.
    """
    name, colon, argument = experiment.partition(":")
    path = experiment_file(experiment)
    module = _run(path)
    get_config = getattr(module, "get_config", None)
    if not callable(get_config):
        raise UserError(
            f"--config={name} has no function get_config(); "
            "return gptjax.config.default_config() with your changes from one"
        )
    try:
        config = get_config(argument) if colon else get_config()
    except UserError:
        raise
    except Exception as error:
        raise _failed(path, error) from error
    if isinstance(config, ConfigDict):
        return config.to_dict()
    if isinstance(config, Mapping):
        return dict(config)
    raise UserError(
        f"get_config() of --config={name} returned a {type(config).__name__}; return a ConfigDict, "
        "for example gptjax.config.default_config() with your changes"
    )


def absolute(experiment: str) -> str:
    """The same experiment from any folder."""
    name, colon, argument = experiment.partition(":")
    return f"{Path(name).absolute()}{colon}{argument}"


def override(
    config: Mapping[str, Any], overrides: Iterable[tuple[str, str | None]]
) -> dict[str, Any]:
    """`config` with (dotted key, text) pairs applied; a list given several times grows.

    Raises:
      UserError: for a key that is not a setting or a text that is not of its type.
    """
    types = setting_types()
    values = _copied(config)
    grown: dict[str, tuple] = {}
    for name, text in overrides:
        if name not in types:
            raise UserError(unknown(name, setting_names()))
        if text is None and types[name] is not bool:
            raise UserError(f"--config.{name} has no value; write --config.{name}=VALUE")
        value = from_text(_shown(name), types[name], "true" if text is None else text)
        if isinstance(value, tuple):
            value = grown[name] = grown.get(name, ()) + value
        *outer, key = name.split(".")
        target = values
        for section in outer:
            target = target.setdefault(section, {})
        target[key] = value
    return values


def _copied(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings in mappings, each of them new: overriding changes no other values."""
    return {
        name: _copied(value) if isinstance(value, Mapping) else value
        for name, value in values.items()
    }


def setting_names() -> Names:
    """Every setting as it is declared now, those of experiment files that ran too."""
    return Names(General, configs.sections(), MOVED)


def setting_types() -> dict[str, Any]:
    """The annotated type of every dotted key."""
    return setting_names().types()


def _shown(name: str) -> str:
    """The name as `gptjax.config` words it: top-level keys with `config.` before them."""
    return name if "." in name else f"config.{name}"


def _run(path: Path) -> Any:
    """Execute the file as a module of its own."""
    loader = SourceFileLoader("gptjax_experiment", str(path))
    spec = importlib.util.spec_from_loader(loader.name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    try:
        loader.exec_module(module)
    except UserError:
        raise
    except SyntaxError as error:
        place = f" line {error.lineno}" if error.lineno else ""
        raise UserError(
            f"--config={path}{place} is not Python ({error.msg}); correct it"
        ) from error
    except Exception as error:
        raise _failed(path, error) from error
    return module


def _failed(path: Path, error: Exception) -> UserError:
    """One sentence with the line of the experiment file on which it stopped."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename) == path]
    place = f" line {lines[-1]}" if lines else ""
    message = " ".join(str(error.args[0] if error.args else error).split())
    if isinstance(error, AttributeError | KeyError):
        message += _moved(message)
    return UserError(
        f"--config={path}{place} raised {type(error).__name__} ({message}); correct the file"
    )


def _moved(message: str) -> str:
    """Where the setting is now whose old key a ConfigDict did not find."""
    moved = [*MOVED.items()]
    for section, cls in configs.sections().items():
        moved += [(old, f"{section}.{new}") for old, new in former(cls).items()]
    names = (new for old, new in moved if re.search(rf"[\"']{old}[\"']", message))
    return next((f"; it is config.{new} now" for new in names), "")
