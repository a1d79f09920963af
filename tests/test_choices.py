"""Choices of settings: one list each, so that a new one is one entry in one place."""

import ast
import functools
from pathlib import Path

import pytest

import gptjax
from gptjax import config
from gptjax.fields import leaves

ROOM = Path(gptjax.__file__).parent
TYPES = {"float32", "bfloat16", "float16"}
"""Of activations and of written files: two settings that have the same names by chance."""

AUTOMATIC = {"auto", "none", "cpu"}
"""Choices that stand beside a table's: no entry, or what the code does without one."""

SETTINGS = {
    f"{name}.{leaf.key}": leaf.field.metadata["choices"]
    for name, cls in {"config": config.General, **config.sections()}.items()
    for leaf in leaves(cls)
    if leaf.field.metadata.get("choices")
}


@functools.cache
def literals():
    """(names, where) of every table and tuple of words that the package writes out."""
    found = []
    for path in sorted(ROOM.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Dict):
                items = node.keys
            elif isinstance(node, ast.Tuple | ast.List | ast.Set):
                items = node.elts
            elif isinstance(node, ast.Call) and not node.args:
                items = [ast.Constant(word.arg) for word in node.keywords]
            else:
                continue
            words = {item.value for item in items if isinstance(item, ast.Constant)}
            if len(words) == len(items) > 1 and all(isinstance(word, str) for word in words):
                found.append((words, f"{path.relative_to(ROOM)}:{node.lineno}"))
    return found


@pytest.mark.parametrize("name", [n for n, c in SETTINGS.items() if isinstance(next(iter(c)), str)])
def test_the_names_of_a_choice_are_written_once(name):
    """A tuple of choices beside a table of the same names would have to be kept like it by hand."""
    names = set(SETTINGS[name]) - AUTOMATIC
    if len(names) < 2 or names == TYPES:
        return
    places = [where for words, where in literals() if words - AUTOMATIC == names]
    assert len(places) <= 1, f"{name}: {sorted(names)} are written in {places}"


def test_a_second_list_would_be_seen():
    written = [words for words, _ in literals()]
    assert {"ring", "all_to_all"} in written and written.count({"ring", "all_to_all"}) == 1
    assert not any({"adamw", "adam8bit", "muon"} <= words for words in written if len(words) < 4)
