"""Writes docs/config.md and gptjax/settings.json from the config dataclasses.

python docs/make_config_reference.py
"""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax import config as configs
from gptjax import setting_names
from gptjax.experiment import setting_names as declared
from gptjax.fields import sections

PAGE = Path(__file__).with_name("config.md")
HEAD = """\
# Config reference

Generated from the dataclasses in `gptjax/*/config.py` by `python docs/make_config_reference.py`; a
test fails when it is stale.

An experiment's `get_config()` starts from `default_config()` and changes what it is about;
a flag changes one key of that:

    python -m gptjax.main --config=experiments/chinchilla_sweep.py --config.sweep.sizes=9

- Whole numbers may be written `1e6`; truth values `true`, `false`, or the bare flag for `true`.
- Lists are written `1e12,3e12` or `'(1e12, 3e12)'`; the empty list is an empty value. A list that
  is given several times grows.
- `none` unsets a key whose type allows it.
- An unknown key is refused with the nearest right one, a value out of its limits with the limit.
"""
LIMITS = (("minimum", "≥"), ("above", ">"), ("maximum", "≤"), ("below", "<"))


def render() -> str:
    """The whole page."""
    parts = [HEAD, _section("", configs.General)]
    for name, cls in configs.sections().items():
        parts.append(_section(name, cls))
        parts += [_section(f"{name}.{inner}", one) for inner, one in sections(cls).items()]
    return "\n".join(parts)


def names() -> str:
    """The names of all settings, by which wrong flags are told early."""
    return setting_names.to_json(declared())


def _section(name: str, cls: type) -> str:
    title = f"`config.{name}`" if name else "Top level"
    depth = "#" * (2 + name.count("."))
    intro = (cls.__doc__ or "").strip().splitlines()[0]
    hints = typing.get_type_hints(cls)
    own = [field for field in dataclasses.fields(cls) if not field.metadata.get("section")]
    rows = [_row(name, field, hints[field.name]) for field in own]
    head = ["| key | default | type | allowed | |", "|---|---|---|---|---|"] if rows else []
    return "\n".join([f"{depth} {title}", "", intro, "", *head, *rows, ""])


def _row(section: str, field: dataclasses.Field, hint: Any) -> str:
    key = f"{section}.{field.name}" if section else field.name
    allowed = _allowed(field.metadata)
    doc = str(field.metadata.get("doc", "")).rstrip(".").replace("<", "&lt;")
    cells = (f"`{key}`", f"`{_shown(field.default)}`", _type(hint), allowed, doc)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _allowed(metadata: Mapping[str, Any]) -> str:
    if metadata.get("choices"):
        return ", ".join(f"`{choice}`" for choice in metadata["choices"])
    limits = [(metadata.get(name), sign) for name, sign in LIMITS]
    return ", ".join(f"{sign} {limit}" for limit, sign in limits if limit is not None)


def _type(hint: Any) -> str:
    if typing.get_origin(hint) is tuple:
        return f"list of {_type(typing.get_args(hint)[0])}"
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if options:
        return f"{_type(options[0])} or none"
    return {int: "whole number", float: "number", bool: "truth value", str: "text"}[hint]


def _shown(value: Any) -> str:
    """A default as it is written on a command line."""
    if isinstance(value, tuple):
        return ",".join(map(_shown, value)) or "()"
    if isinstance(value, bool) or value is None:
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    return str(value) if value != "" else "''"


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
    setting_names.FILE.write_text(names(), encoding="utf-8")
