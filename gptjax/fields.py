"""Config dataclasses as the single source of truth: default, type, limits and documentation.

Each room declares its section as a frozen dataclass whose fields are made with `setting`; settings
that belong to one choice are a dataclass of their own beside that choice, and lie in the section as
a field made with `section`, to any depth. From those, `gptjax.config` makes the ConfigDict that a
user overrides, checks what comes back, and generates the config reference of the docs.
"""

import ast
import dataclasses
import functools
import math
import operator
import sys
import types
import typing
from collections.abc import Collection, Mapping
from typing import Any

from gptjax.errors import UserError, nearest


def setting(
    default: Any,
    doc: str,
    *,
    choices: Collection[Any] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
    was: str = "",
    was_values: Mapping[Any, Any] | None = None,
) -> Any:
    """A dataclass field with its documentation and limits.

    Args:
      default: the value used when the user says nothing (tuples for lists).
      doc: one line, with units.
      choices: the allowed values, where they are few; a table that grows later is fine.
      minimum, maximum: inclusive limits (applied to every element of a tuple).
      above, below: exclusive limits.
      was: its key in the top section before it was moved or renamed. That spelling is refused with
        the new one named, read from saved folders, and kept in identities.
      was_values: the same for values of a choice, as {new spelling: first spelling}.
    """
    metadata: dict[str, Any] = {
        "doc": doc,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
        "was": was,
    }
    if was:
        metadata["identity"] = was
    if was_values:
        metadata["identity_values"] = was_values
    return dataclasses.field(default=default, metadata=metadata)


def section(cls: type, doc: str) -> Any:
    """A dataclass field that holds the settings of `cls`, with their defaults.

    It adds nothing to the keys by which identities know them.
    """
    return dataclasses.field(default=cls(), metadata={"doc": doc, "section": True, "identity": ""})


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting of a dataclass or of the sections inside it.

    Attributes:
      key: its dotted name from the dataclass on.
      field: where it is declared.
      hint: its annotated type.
    """

    key: str
    field: dataclasses.Field
    hint: Any


def type_hints(cls: type) -> dict[str, Any]:
    """The annotated type of every field of a dataclass, not to be changed."""
    same: Any = cls  # mypy takes the class of a dataclass for unhashable
    return _type_hints(same)


_type_hints = functools.cache(typing.get_type_hints)


def leaves(cls: type) -> tuple[Leaf, ...]:
    """Every setting of `cls`, those of its sections in their place."""
    same: Any = cls  # mypy takes the class of a dataclass for unhashable
    return _leaves(same)


@functools.cache
def _leaves(cls: type) -> tuple[Leaf, ...]:
    hints, found = type_hints(cls), []
    for field in dataclasses.fields(cls):
        if not field.metadata.get("section"):
            found.append(Leaf(field.name, field, hints[field.name]))
            continue
        inside = leaves(hints[field.name])
        found += [Leaf(f"{field.name}.{leaf.key}", leaf.field, leaf.hint) for leaf in inside]
    return tuple(found)


def sections(cls: type) -> dict[str, type]:
    """The dataclasses of the sections inside `cls` by their dotted names, outer ones first."""
    hints, found = type_hints(cls), {}
    for field in dataclasses.fields(cls):
        if field.metadata.get("section"):
            inner = hints[field.name]
            found[field.name] = inner
            found |= {f"{field.name}.{name}": one for name, one in sections(inner).items()}
    return found


def former(cls: type) -> dict[str, str]:
    """The dotted key of every setting that had another one, by that one."""
    found = {leaf.field.metadata.get("was"): leaf.key for leaf in leaves(cls)}
    return {old: new for old, new in found.items() if old}


def flat(value: Any) -> dict[str, Any]:
    """The settings of a dataclass by their dotted keys."""
    return {leaf.key: operator.attrgetter(leaf.key)(value) for leaf in leaves(type(value))}


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings in mappings from dotted keys.

    >>> nested({"depth": 2, "rope.base": 1e4, "rope.layout": "half"})
    {'depth': 2, 'rope': {'base': 10000.0, 'layout': 'half'}}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        *outer, last = key.split(".")
        target = found
        for name in outer:
            target = target.setdefault(name, {})
        target[last] = value
    return found


def flattened(values: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """The inverse of `nested`."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            found |= flattened(value, f"{before}{name}.")
        else:
            found[f"{before}{name}"] = value
    return found


def replaced(value: Any, changes: Mapping[str, Any]) -> Any:
    """A dataclass with the settings at these dotted keys changed.

    Raises:
      TypeError: for a key that it does not have.
    """
    own: dict[str, Any] = {}
    inside: dict[str, dict[str, Any]] = {}
    for key, new in changes.items():
        name, _, rest = key.partition(".")
        if rest:
            inside.setdefault(name, {})[rest] = new
        else:
            own[name] = new
    for name, some in inside.items():
        own[name] = replaced(own.get(name, getattr(value, name)), some)
    return dataclasses.replace(value, **own)


def upgraded(cls: type, values: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping that an earlier version wrote for `cls`, with every setting at its place of now."""
    moved, found = former(cls), flattened(values)
    now = {moved.get(key, key): value for key, value in found.items()}
    for leaf in leaves(cls):
        spelling = leaf.field.metadata.get("identity_values")
        if spelling and leaf.key in now:
            first = {old: new for new, old in spelling.items()}
            now[leaf.key] = _respelled(now[leaf.key], first)
    return nested(now)


def _respelled(value: Any, spelling: Mapping[Any, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_respelled(item, spelling) for item in value]
    return spelling.get(value, value)


def make(cls: type, values: Mapping[str, Any], section: str) -> Any:
    """Build the dataclass `cls` from a mapping, checking names, types, choices and limits.

    Raises:
      UserError: for an unknown key, a wrong type or a value out of its limits.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(f"{section}.{name} is not a setting; {advice(name, cls, section)}")
    hints = type_hints(cls)
    checked = {}
    for name, value in values.items():
        path = f"{section}.{name}"
        if fields[name].metadata.get("section"):
            checked[name] = _make_inside(hints[name], value, path)
            continue
        converted = _convert(path, hints[name], value)
        _check_limits(path, converted, fields[name].metadata)
        checked[name] = converted
    return cls(**checked)


def _make_inside(cls: type, value: Any, path: str) -> Any:
    if isinstance(value, cls):
        return value
    if not isinstance(value, Mapping):
        raise UserError(f"{path}={value!r} is a section; set {path}.<key>")
    return make(cls, value, path)


def advice(key: str, cls: type, section: str) -> str:
    """The right spelling for `section.key`, which is no setting of `cls`."""
    moved = former(cls)
    if key in moved:
        return f"it is {section}.{moved[key]} now"
    outer, _, _ = key.rpartition(".")
    inside = sections(cls)
    if outer in inside:
        near = nearest(key.rpartition(".")[2], [f.name for f in dataclasses.fields(inside[outer])])
    else:
        near = nearest(key, [leaf.key for leaf in leaves(cls)])
    if near.startswith("choose"):
        same = [leaf.key for leaf in leaves(cls) if leaf.key.endswith(f".{key}")]
        if same:
            return f"did you mean {section}.{same[0]}?"
        if outer not in inside:  # the keys of inner sections would make a sentence of a page
            return nearest(key, [field.name for field in dataclasses.fields(cls)])
    return near


def from_text(path: str, hint: Any, text: str) -> Any:
    """The value of type `hint` that a user wrote on a command line.

    Whole numbers may be written as 1e6; lists as 1,2 or (1,2) or [1,2]; None as none.

    >>> from_text("train.tokens", int, "1e6"), from_text("sweep.widths", tuple[int, ...], "16,32")
    (1000000, (16, 32))

    Raises:
      UserError: when the text is not of that type.
    """
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if text.strip().lower() in ("none", "null"):
            return None
        hint = next(option for option in typing.get_args(hint) if option is not type(None))
        return from_text(path, hint, text)
    if origin is tuple:
        element = typing.get_args(hint)[0]
        items = _items(text)
        return tuple(from_text(f"{path}[{i}]", element, item) for i, item in enumerate(items))
    if hint is str:
        return text
    number = _number(text)
    if number is not None:
        _check_range(path, hint, number)
    if hint is float and number is not None:
        return _real(number)
    if hint is int and number is not None and number == number // 1:
        return int(number)
    if hint is bool and text.strip().lower() in _BOOLEANS:
        return _BOOLEANS[text.strip().lower()]
    words, example = _WORDS[hint]
    raise UserError(f"{path}={text!r} is not {words}; write it like {example}")


_BOOLEANS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
_WORDS = {
    int: ("a whole number", "16 or 1e6"),
    float: ("a number", "0.5 or 1e12"),
    bool: ("a truth value", "true or false"),
}


LARGEST = {int: 2**63 - 1, float: sys.float_info.max}
"""The largest value of any setting."""


def _check_range(path: str, hint: type, number: float | int) -> None:
    """Refuse a number that its type does not hold; infinities are for the limits to refuse."""
    most = LARGEST.get(hint, math.inf)
    if abs(number) > most and not (isinstance(number, float) and math.isinf(number)):
        shown = (
            str(number) if isinstance(number, float) else f"a number of {_digits(number)} digits"
        )
        raise UserError(f"{path} is {shown}; give one of at most {most:.4g}")


def _digits(number: int) -> int:
    return int(abs(number).bit_length() * math.log10(2)) + 1


def _items(text: str) -> list[str]:
    """The elements of a list that was written as Python would, or with bare words."""
    try:
        value = ast.literal_eval(text.strip() or "()")
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        bare = text.strip()
        if (bare[0], bare[-1]) in (("(", ")"), ("[", "]")):
            bare = bare[1:-1]
        return [item.strip().strip("\"'") for item in bare.rstrip(", ").split(",")]
    return [str(item) for item in value] if isinstance(value, tuple | list) else [str(value)]


def _real(number: float | int) -> float:
    """As a float; whole numbers of more than 308 digits are infinite, which limits refuse."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def _number(text: str) -> float | int | None:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        return None


def _convert(path: str, hint: Any, value: Any) -> Any:
    """`value` as the annotated type `hint`; ints pass for floats, lists for tuples."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(path, hint, value)
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            value = (value,)
        element = typing.get_args(hint)[0]
        return tuple(_convert(f"{path}[{i}]", element, item) for i, item in enumerate(value))
    if hint in (int, float) and isinstance(value, int | float) and not isinstance(value, bool):
        _check_range(path, hint, value)
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return _real(value)
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(hint, type) and isinstance(value, hint):
        if isinstance(value, bool) and hint is not bool:
            raise _type_error(path, hint, value)
        return value
    raise _type_error(path, hint, value)


def _convert_union(path: str, hint: Any, value: Any) -> Any:
    options = [option for option in typing.get_args(hint) if option is not type(None)]
    if value is None:
        return None
    for option in options:
        try:
            return _convert(path, option, value)
        except UserError:
            continue
    raise _type_error(path, options[0], value)


def _type_error(path: str, hint: Any, value: Any) -> UserError:
    wanted = getattr(hint, "__name__", str(hint))
    return UserError(f"{path}={value!r} is a {type(value).__name__}; give a {wanted}")


def _check_limits(path: str, value: Any, metadata: Mapping[str, Any]) -> None:
    if isinstance(value, tuple):
        for i, item in enumerate(value):
            _check_limits(f"{path}[{i}]", item, metadata)
        return
    choices = metadata.get("choices")
    if choices is not None and value not in choices:
        raise UserError(f"{path}={value!r} is not known; {nearest(value, choices)}")
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    if not math.isfinite(value):
        raise UserError(f"{path}={value} is not finite; give a number")
    limits = (
        ("minimum", operator.ge, "at least"),
        ("maximum", operator.le, "at most"),
        ("above", operator.gt, "above"),
        ("below", operator.lt, "below"),
    )
    for name, holds, words in limits:
        limit = metadata.get(name)
        if limit is not None and not holds(value, limit):
            raise UserError(f"{path}={value} must be {words} {limit}")
