"""Names of settings, and the sentence for a name that no setting has.

The names come from the dataclasses of the sections, or from `settings.json`, which says the same
without importing the rooms that declare them: a wrong flag is refused before JAX is loaded.
"""

import dataclasses
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.errors import nearest
from gptjax.fields import advice, flattened, former, leaves, section, sections, setting

PACKAGE = Path(__file__).parent
FILE = PACKAGE / "settings.json"
"""The names of every setting; `python docs/make_config_reference.py` writes it."""


@dataclasses.dataclass(frozen=True)
class Names:
    """Where settings are declared.

    Attributes:
      general: the dataclass of the keys at the top of a config.
      sections: the dataclass of each section.
      moved: keys that were at the top of a config, and where they are now.
    """

    general: type
    sections: Mapping[str, type]
    moved: Mapping[str, str]

    def types(self) -> dict[str, Any]:
        """The annotated type of every dotted key."""
        found = {leaf.key: leaf.hint for leaf in leaves(self.general)}
        for name, cls in self.sections.items():
            found |= {f"{name}.{leaf.key}": leaf.hint for leaf in leaves(cls)}
        return found


def unknown(name: str, names: Names) -> str:
    """The sentence that refuses a dotted key and gives the nearest right one."""
    outer, _, key = name.partition(".")
    places, known = names.sections, names.types()
    if name in names.moved:
        return f"config.{name} is not a setting; it is config.{names.moved[name]} now"
    known_sections = [*places]
    for top, cls in places.items():
        known_sections += [f"{top}.{inner}" for inner in sections(cls)]
    if name in known_sections:
        return f"config.{name} is a section; set config.{name}.<key>, for example " + next(
            f"--config.{path}=VALUE" for path in known if path.startswith(f"{name}.")
        )
    if outer in places and key in former(places[outer]):
        return f"config.{name} is not a setting; {advice(key, places[outer], outer)}"
    same_key = [path for path in known if path.rpartition(".")[2] == (key or outer)]
    if same_key:
        return f"config.{name} is not a setting; did you mean config.{same_key[0]}?"
    if outer in places:
        return f"config.{name} is not a setting; {advice(key, places[outer], outer)}"
    near = nearest(name, known)
    if not near.startswith("did"):
        near = nearest(outer, [*places, *(path for path in known if "." not in path)])
    return f"config.{name} is not a setting; {near}"


def to_json(names: Names) -> str:
    """The text of `settings.json`: each key with the name it had before, sections as mappings."""
    tree = {
        "top": _tree(names.general),
        "sections": {name: _tree(cls) for name, cls in names.sections.items()},
        "moved": dict(names.moved),
    }
    return json.dumps(tree, indent=1) + "\n"


def _tree(cls: type) -> dict[str, Any]:
    inner = sections(cls)
    return {
        field.name: _tree(inner[field.name]) if field.name in inner else field.metadata["was"]
        for field in dataclasses.fields(cls)
    }


def keys_in_json(text: str) -> set[str]:
    """Only the dotted keys of what `to_json` wrote, in a millisecond."""
    tree = json.loads(text)
    return {*flattened({**tree["top"], **tree["sections"]})}


def from_json(text: str) -> Names:
    """The names that `to_json` wrote; their dataclasses have neither types nor defaults."""
    tree = json.loads(text)
    inside = {name: _declared(one) for name, one in tree["sections"].items()}
    return Names(_declared(tree["top"]), inside, tree["moved"])


def _declared(tree: Mapping[str, Any]) -> type:
    found: list[tuple[str, Any, Any]] = []
    for name, one in tree.items():
        if isinstance(one, Mapping):
            cls = _declared(one)
            found.append((name, cls, section(cls, "")))
        else:
            found.append((name, object, setting(None, "", was=one)))
    return dataclasses.make_dataclass("Section", found, frozen=True)


def newer_in_sources(name: str, names: Names) -> bool:
    """Whether the sources declare a setting of this last key that `settings.json` lacks.

    So it is while somebody adds one: the file is only written anew when that is finished.
    """
    key = re.escape(name.rpartition(".")[2])
    declaration = re.compile(rf"^ +{key}: [^=\n]*= (?:\w+\.)?(?:setting|section)\(", re.M)
    known = sum(path.rpartition(".")[2] == key for path in names.types())
    found = sum(
        len(declaration.findall(path.read_text(encoding="utf-8"))) for path in PACKAGE.rglob("*.py")
    )
    return found > known
