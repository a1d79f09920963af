"""Identities: canonical forms of settings, which new, renamed and nested settings do not change.

A cell's name is a hash of its canonical form: one flat mapping from canonical key to value, without
the values that equal their default. So a new setting renames no cell, and a folder made by an
earlier version is continued. Four rules keep it so:

- A setting that is renamed or moved inside its top section keeps its key: `setting(…,
  was="ssm_state")`. Sections inside sections (`fields.section`) add nothing to the keys. Other
  dataclasses say their keys in the metadata of their fields; an "identity" that begins with a dot
  is the whole key.
- A value of a choice that is renamed keeps its spelling: `setting(…, was_values={"new": "old"})`.
- A new setting's default does what was done before it was there.
- A default that is changed raises SCHEMA and is entered in CHANGED with its value before. Folders
  say which schema wrote them, so that what they leave out means what it meant then; identities go
  on leaving out the first default, so that they stay what they are.

`tests/golden_defaults.json` holds every key with its default; its test says which rule was missed.
"""

import dataclasses
import functools
import hashlib
import json
import typing
from collections.abc import Mapping
from typing import Any

from gptjax.errors import UserError

SCHEMA = 2
"""Version of what folders are written in. Version 1 named cells by every field."""

CHANGED: dict[int, dict[str, Any]] = {}
"""Version → canonical key → the default before that version."""

RETIRED = (
    *("table", "forms", "laws", "flops", "target", "compiled"),
    *(f"convert.{name}" for name in ("direction", "folder", "model_type", "dtype", "shard_gb")),
)
"""Canonical keys that folders may have, and that say nothing of them: settings of other jobs."""

REQUIRED = dataclasses.MISSING


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One setting of a dataclass, nested ones included.

    Attributes:
      path: the names of its fields, from the outermost inwards.
      key: its canonical key.
      default: REQUIRED where there is none.
      spelling: canonical spelling of values that were renamed.
    """

    path: tuple[str, ...]
    key: str
    default: Any
    spelling: Mapping[Any, Any]

    @property
    def name(self) -> str:
        """As a user writes it today."""
        return ".".join(self.path)

    def value(self, owner: Any) -> Any:
        """The canonical value that `owner` gives it."""
        for name in self.path:
            owner = getattr(owner, name)
        return self.canonical(owner)

    def canonical(self, value: Any) -> Any:
        """A value in its canonical spelling; tuples become lists."""
        return _spelled(value, self.spelling)

    def today(self, value: Any) -> Any:
        """A canonical value in today's spelling."""
        return _spelled(value, {old: new for new, old in self.spelling.items()})

    @functools.cached_property
    def first(self) -> Any:
        """The canonical default that this setting had at first."""
        return self.default_in(1)

    def default_in(self, schema: int) -> Any:
        """The canonical default that this setting had in a version."""
        later = [version for version in sorted(CHANGED) if version > schema]
        before = [CHANGED[version][self.key] for version in later if self.key in CHANGED[version]]
        if before:
            return _spelled(before[0], {})
        return REQUIRED if self.default is REQUIRED else self.canonical(self.default)


_KNOWN: dict[type, tuple[Leaf, ...]] = {}


def leaves(cls: type) -> tuple[Leaf, ...]:
    """Every setting of a dataclass. Its attribute IDENTITY_ROOT begins the keys, if it has one."""
    if cls not in _KNOWN:
        _KNOWN[cls] = _checked(cls)
    return _KNOWN[cls]


def _checked(cls: type) -> tuple[Leaf, ...]:
    found = tuple(_leaves(cls, REQUIRED, (), getattr(cls, "IDENTITY_ROOT", "")))
    keys = [leaf.key for leaf in found]
    twice = {key for key in keys if keys.count(key) > 1}
    assert not twice, f"{cls.__name__} has settings with one identity: {twice}"
    return found


def canonical(value: object) -> dict[str, Any]:
    """The canonical form of a dataclass: flat, without what equals its first default."""
    pairs = ((leaf, leaf.value(value)) for leaf in leaves(type(value)))
    return {leaf.key: found for leaf, found in pairs if found != leaf.first}


def digest(value: Any, length: int = 16) -> str:
    """The first `length` hexadecimal digits of the SHA-256 of a canonical form or container."""
    if dataclasses.is_dataclass(value):
        value = canonical(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def saved(value: object) -> dict[str, Any]:
    """All settings of a dataclass under their canonical keys, nested, with the schema."""
    mapping: dict[str, Any] = {"schema": SCHEMA}
    for leaf in leaves(type(value)):
        _put(mapping, leaf.key.split("."), leaf.value(value))
    return mapping


def restored(cls: type, found: Mapping[str, Any], place: str) -> dict[str, Any]:
    """The settings that `saved` wrote, in this or an earlier version, nested as they are today.

    A missing key is the default of the version that wrote it.

    Args:
      place: where it was found, for the errors.

    Raises:
      UserError: when a newer version wrote it, or it has settings that are not known.
    """
    flat = _flat(found)
    schema = flat.pop("schema", 1)
    for name in RETIRED:
        flat.pop(name, None)
    if not isinstance(schema, int) or schema > SCHEMA:
        raise UserError(
            f"{place} was written by a newer gptjax (schema {schema}; this one reads up to "
            f"{SCHEMA}); upgrade gptjax or choose another folder"
        )
    mapping: dict[str, Any] = {}
    for leaf in leaves(cls):
        names = [name for name in dict.fromkeys((leaf.key, leaf.name)) if name in flat]
        value = flat.pop(names[0]) if names else leaf.default_in(schema)
        if value is REQUIRED:
            raise UserError(f"{place} has no {leaf.key}; choose another folder")
        _put(mapping, list(leaf.path), leaf.today(value))
    if flat:
        raise UserError(
            f"{place} has the setting {next(iter(flat))}, which this gptjax does not know; use the "
            "version that made it or choose another folder"
        )
    return mapping


def rebuilt(cls: type, form: Mapping[str, Any], place: str) -> Any:
    """The dataclass of a canonical form: what it leaves out is the first default.

    Raises:
      UserError: for settings that are not known.
    """
    return _built(cls, restored(cls, {**form, "schema": 1}, place))


def _built(cls: type, values: Mapping[str, Any]) -> Any:
    hints = _hints(cls)
    return cls(
        **{
            name: _built(hints[name], value)
            if dataclasses.is_dataclass(hints[name])
            else _tuples(value)
            for name, value in values.items()
        }
    )


@functools.cache
def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _tuples(value: Any) -> Any:
    """Lists, as JSON has them, as the tuples that settings have."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def from_version_1(cls: type, found: Mapping[str, Any]) -> dict[str, Any]:
    """The canonical form of a dataclass that version 1 wrote with every field, nested."""
    flat, form = _flat(found), {}
    for leaf in leaves(cls):
        name = leaf.key.removeprefix(f"{getattr(cls, 'IDENTITY_ROOT', '')}.")
        value = flat.pop(name, leaf.first)
        if value != leaf.first:
            form[leaf.key] = value
    return {**form, **flat}


def _leaves(cls: type, default: Any, path: tuple[str, ...], key: str) -> typing.Iterator[Leaf]:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if field.metadata.get("identity", "") is None:
            continue
        own = getattr(default, field.name) if isinstance(default, cls) else _default(field)
        inner = _joined(key, field.metadata.get("identity", field.name))
        where = (*path, field.name)
        if dataclasses.is_dataclass(hints[field.name]):
            yield from _leaves(hints[field.name], own, where, inner)
        else:
            yield Leaf(where, inner, own, field.metadata.get("identity_values") or {})


def _default(field: dataclasses.Field) -> Any:
    if field.default_factory is not REQUIRED:
        return field.default_factory()
    return field.default


def _joined(key: str, name: str) -> str:
    if name.startswith("."):
        return name[1:]
    return ".".join(part for part in (key, name) if part)


def _spelled(value: Any, spelling: Mapping[Any, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_spelled(item, spelling) for item in value]
    return spelling.get(value, value) if spelling else value


def _flat(found: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in found.items():
        inner = _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else None
        flat |= {f"{prefix}{name}": value} if inner is None else inner
    return flat


def _put(mapping: dict[str, Any], names: list[str], value: Any) -> None:
    for name in names[:-1]:
        mapping = mapping.setdefault(name, {})
    mapping[names[-1]] = value
