"""Early refusals: mistakes of a command line that can be told without loading JAX.

What cannot be judged here is left to the whole check of the config, which says the same sentences.
"""

import ast
import sys
from collections.abc import Iterable
from pathlib import Path

from gptjax import setting_names
from gptjax.errors import UserError, nearest

KNOWN = "experiments"
RUNS_OTHERS = {"importlib", "runpy", "sys", "ctypes"}
"""Modules of the standard library by which a file may run another, which registers settings."""


def check(experiment: str, keys: Iterable[str]) -> None:
    """Refuse an experiment that is not there, and keys that no setting has.

    Keys are only judged where the experiment registers nothing of its own.

    Raises:
      UserError: for a file that cannot be run, and a key that is not a setting.
    """
    path = experiment_file(experiment)
    text = setting_names.FILE.read_text(encoding="utf-8")
    known = setting_names.keys_in_json(text)
    wrong = next((key for key in keys if key not in known), None)
    if wrong is None or not registers_nothing(path):
        return
    names = setting_names.from_json(text)
    if not setting_names.newer_in_sources(wrong, names):
        raise UserError(setting_names.unknown(wrong, names))


def experiment_file(experiment: str) -> Path:
    """The file of `FILE` or `FILE:TEXT`.

    Raises:
      UserError: when it is missing or is not Python.
    """
    name = experiment.partition(":")[0]
    path = Path(name)
    if not path.is_file():
        there = "is a folder" if path.is_dir() else "does not exist"
        raise UserError(f"--config={name} {there}; {_known_experiment(name)}")
    if path.suffix != ".py":
        raise UserError(f"--config={path} is not a .py file; {_known_experiment(str(path))}")
    return path


def _known_experiment(name: str) -> str:
    known = sorted(str(file) for file in Path(KNOWN).glob("*.py"))
    return nearest(name, known) if known else "give the path of an experiment file"


def registers_nothing(path: Path) -> bool:
    """Whether the file can only change settings: it imports no module that could register one."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError):
        return False
    nodes = [*ast.walk(tree)]
    called = {node.id for node in nodes if isinstance(node, ast.Name)}
    return not called & {"__import__", "exec", "eval"} and all(map(_only_reads, nodes))


def _only_reads(node: ast.AST) -> bool:
    """Whether a node is no import, or one of the standard library or of `default_config`."""
    if isinstance(node, ast.ImportFrom) and node.module == "gptjax.config":
        return [alias.name for alias in node.names] == ["default_config"]
    if isinstance(node, ast.ImportFrom):
        names = [node.module or ""]
    elif isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    else:
        return True
    roots = {name.partition(".")[0] for name in names}
    return roots <= (sys.stdlib_module_names - RUNS_OTHERS) | {"ml_collections"}
