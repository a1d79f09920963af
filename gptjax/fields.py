"""Config dataclasses as the single source of truth: default, type, limits and documentation.

Each room declares its section as a frozen dataclass whose fields are made with `setting`. From
those, `gptjax.build` makes the ConfigDict that a user overrides, checks what comes back, and
generates the config reference of the docs.
"""

import ast
import dataclasses
import math
import operator
import types
import typing
from collections.abc import Mapping
from typing import Any

from gptjax.errors import UserError, nearest


def setting(
    default: Any,
    doc: str,
    *,
    choices: tuple[Any, ...] | None = None,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> Any:
    """A dataclass field with its documentation and limits.

    Args:
      default: the value used when the user says nothing (tuples for lists).
      doc: one line, with units.
      choices: the allowed values, where they are few.
      minimum, maximum: inclusive limits (applied to every element of a tuple).
      above, below: exclusive limits.
    """
    metadata = {
        "doc": doc,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "below": below,
    }
    return dataclasses.field(default=default, metadata=metadata)


def make(cls: type, values: Mapping[str, Any], section: str) -> Any:
    """Build the dataclass `cls` from a mapping, checking names, types, choices and limits.

    Raises:
      UserError: for an unknown key, a wrong type or a value out of its limits.
    """
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for name in values:
        if name not in fields:
            raise UserError(f"{section}.{name} is not a setting; {nearest(name, fields)}")
    hints = typing.get_type_hints(cls)
    checked = {}
    for name, value in values.items():
        path = f"{section}.{name}"
        converted = _convert(path, hints[name], value)
        _check_limits(path, converted, fields[name].metadata)
        checked[name] = converted
    return cls(**checked)


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
    if hint is float and number is not None:
        return float(number)
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
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
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
