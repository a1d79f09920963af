"""The table of rooms and floors: a room imports itself and lower floors only."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "gptjax"

# Rooms that are planned have their floor already.
FLOORS = {
    "errors": 0,
    "early": 0,
    "setting_names": 0,
    "fields": 0,
    "files": 0,
    "identity": 0,
    "accelerators": 0,
    "terminal": 0,
    "processor": 0,
    "threads": 0,
    "processes": 0,
    "ops": 1,
    "models": 2,
    "optim": 2,
    "parallel": 2,
    "data": 2,
    "scaling": 2,
    "tracking": 2,
    "report": 3,
    "train": 3,
    "convert": 3,
    "quant": 3,
    "cost": 4,
    "infer": 4,
    "sweeps": 5,
    "align": 5,
    "evals": 5,
    "config": 6,
    "experiment": 6,
    "job": 6,
    "engines": 7,
    "stages": 8,
    "jobs": 9,
    "main": 10,
}
ONE_ROOM = (
    {
        *("errors", "fields", "files", "identity", "threads", "accelerators", "terminal"),
        *("early", "setting_names", "processor", "processes"),
    },
    {"config", "experiment", "job"},
)
"""Neighbours on one floor that may import each other."""

BLIND = {
    "report": {"models", "optim", "data"},
}
"""Lower rooms that a room must not know all the same: a report is drawn from tables and laws."""

SEES_CONFIG_DICT = {"config", "experiment"}
DRAWS = {"report"}


def room_of(module: str) -> str:
    """`gptjax.train.loop` → `train`; the package itself is ''."""
    return module.partition(".")[2].partition(".")[0]


READ = (ast.Import, ast.ImportFrom, ast.Match, ast.Compare)
Nodes = tuple[ast.AST, ...]


@functools.cache
def modules(package: Path) -> tuple[tuple[str, Path, Nodes], ...]:
    """(dotted name, path, what the checks read of its syntax tree) of every module."""
    found = []
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        name = ".".join(part for part in parts if part != "__init__")
        tree = ast.parse(path.read_text(encoding="utf-8"))
        found.append((name, path, tuple(n for n in ast.walk(tree) if isinstance(n, READ))))
    return tuple(found)


def imports(name: str, path: Path, nodes: Nodes) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of every import, those inside functions too."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                up = node.level - (path.name == "__init__.py")
                base = ".".join([*name.split(".")[: len(name.split(".")) - up], *base.split(".")])
            yield from ((node.lineno, f"{base}.{alias.name}") for alias in node.names)


def why_not(room: str, other: str) -> str:
    """Why `room` may not import `other`, or ''."""
    if other in ("", room) or any({room, other} <= rooms for rooms in ONE_ROOM):
        return ""
    if other not in FLOORS:
        return f"{other} has no floor; add it to FLOORS, as low as it can live"
    if other in BLIND.get(room, ()):
        return f"{room} must know nothing of {other}; pass numbers or tables in instead"
    if FLOORS[other] == FLOORS[room]:
        return f"both are on floor {FLOORS[room]}; join them above, or move what they share down"
    if FLOORS[other] > FLOORS[room]:
        return (
            f"{other} (floor {FLOORS[other]}) is above {room} (floor {FLOORS[room]}); pass what is "
            "needed in as an argument, or move it down"
        )
    return ""


def wrong_imports(package: Path) -> list[str]:
    found = []
    for name, path, nodes in modules(package):
        room = room_of(name)
        if room and room not in FLOORS:
            found.append(f"{path.name}: {room} has no floor; add it to FLOORS")
            continue
        for line, imported in imports(name, path, nodes):
            if imported.split(".")[0] != package.name or not room:
                continue
            reason = why_not(room, room_of(imported))
            if reason:
                found.append(f"{name} line {line} imports {imported}: {reason}")
    return found


def outsiders(package: Path, library: str, allowed: set[str], reason: str) -> list[str]:
    """Imports of `library` outside the rooms that may."""
    return [
        f"{name} line {line} imports {imported}: {reason}"
        for name, path, nodes in modules(package)
        for line, imported in imports(name, path, nodes)
        if imported.split(".")[0] == library and room_of(name) not in allowed
    ]


def family_branches(package: Path, names: set[str]) -> list[str]:
    """Comparisons with a model's name: what differs between models is a field or a registry."""
    found = []
    for name, _, nodes in modules(package):
        for node in nodes:
            if isinstance(node, ast.Match):
                sides = [node.subject]
            elif isinstance(node, ast.Compare):
                sides = [node.left, *node.comparators]
            else:
                continue
            literal = isinstance(node, ast.Match) or any(map(_texts, sides))
            attributes = {side.attr for side in sides if isinstance(side, ast.Attribute)}
            field = bool(attributes & {"family", "preset"})
            named = any(text in names for side in sides for text in _texts(side))
            if (field and literal) or named:
                found.append(
                    f"{name} line {node.lineno} branches on a model's name; make it a field of "
                    "ModelConfig or an entry of the registry"
                )
    return found


def _texts(node: ast.expr) -> list[str]:
    """Non-empty string constants of a constant or a literal collection."""
    nodes = node.elts if isinstance(node, ast.Tuple | ast.List | ast.Set) else [node]
    values = [n.value for n in nodes if isinstance(n, ast.Constant)]
    return [value for value in values if isinstance(value, str) and value]


def model_names() -> set[str]:
    from gptjax import models

    return {*models.PRESETS, "decoder", "gpt", "gpt2", "gpt3", "llama", "mamba", "mixtral"}


def test_floors():
    assert not wrong_imports(PACKAGE), "\n".join(wrong_imports(PACKAGE))


def test_only_the_top_sees_a_config_dict():
    found = outsiders(
        PACKAGE,
        "ml_collections",
        SEES_CONFIG_DICT,
        "rooms get frozen dataclasses; only config.py and experiment.py see a ConfigDict",
    )
    assert not found, "\n".join(found)


def test_only_the_report_draws():
    found = outsiders(PACKAGE, "matplotlib", DRAWS, "figures are drawn in report/")
    assert not found, "\n".join(found)


def test_no_branch_on_a_models_name():
    found = family_branches(PACKAGE, model_names())
    assert not found, "\n".join(found)


def test_every_room_of_the_package_has_a_floor():
    rooms = {room_of(name) for name, _, _ in modules(PACKAGE)} - {""}
    assert {"ops", "models", "jobs", "main", "errors"} <= rooms <= FLOORS.keys()


WRONG = {
    "ops/a.py": ("import gptjax.models.config", "models (floor 2) is above ops (floor 1)"),
    "models/b.py": ("from gptjax import optim", "both are on floor 2"),
    "train/c.py": ("def f():\n    from gptjax.jobs.plan import x", "jobs (floor 9) is above"),
    "data/d.py": ("from ..train import loop", "train (floor 3) is above data (floor 2)"),
    "report/e.py": ("from gptjax.data import load", "report must know nothing of data"),
    "fields.py": ("from gptjax.ops import attention", "ops (floor 1) is above fields"),
    "sweeps/f.py": ("from gptjax import helpers", "helpers has no floor"),
    "helpers.py": ("", "helpers has no floor"),
    "config.py": ("from gptjax import main", "main (floor 10) is above config (floor 6)"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_import_is_found(tmp_path, name):
    source, reason = WRONG[name]
    path = tmp_path / "gptjax" / name
    path.parent.mkdir(parents=True)
    path.write_text(source)
    (found,) = wrong_imports(tmp_path / "gptjax")
    assert reason in found


@pytest.mark.parametrize(
    "source",
    [
        "if config.family == 'decoder': pass",
        "x = 1 if config.preset in ('new', 'old') else 2",
        "match config.family:\n    case 'decoder': pass",
        "if name == 'llama': pass",
    ],
)
def test_a_branch_on_a_name_is_found(tmp_path, source):
    (tmp_path / "loop.py").write_text(source)
    assert len(family_branches(tmp_path, {"llama"})) == 1


def test_other_branches_are_not(tmp_path):
    (tmp_path / "loop.py").write_text("if not c.preset or c.norm == 'rmsnorm' or f in known: pass")
    assert family_branches(tmp_path, {"llama"}) == []
