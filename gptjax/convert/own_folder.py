"""Model folder in our own format: model.json and parameters, without a run around them."""

import dataclasses
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gptjax.convert.registry import KINDS, kind_of
from gptjax.convert.tensor_map import shapes_of
from gptjax.errors import UserError
from gptjax.fields import make, upgraded
from gptjax.files import read_json, write_json

CONFIG, PARAMS = "model.json", "params"


def save_model(folder: Path, config: Any, params: Any) -> None:
    """Write `folder`/model.json and `folder`/params; the config last, when the rest is whole.

    Args:
      config: of a type in `KINDS`.

    Raises:
      UserError: where the folder holds a model already.
    """
    import orbax.checkpoint as ocp

    if (folder / CONFIG).exists():
        raise UserError(f"{folder} holds a model already; choose another --workdir or delete it")
    with ocp.StandardCheckpointer() as writer:
        writer.save((folder / PARAMS).absolute(), params, force=True)
    (kind,) = (name for name, kind in KINDS.items() if kind is kind_of(config))
    write_json(folder / CONFIG, {"kind": kind, **dataclasses.asdict(config)})


def load_model(folder: Path) -> tuple[Any, Any]:
    """What `save_model` wrote.

    Raises:
      UserError: where there is none.
    """
    import orbax.checkpoint as ocp

    fields = read_json(folder / CONFIG)
    kind = KINDS[fields.pop("kind", "decoder")]
    config = _config(kind.config, fields, "model")
    with ocp.StandardCheckpointer() as reader:
        return config, reader.restore((folder / PARAMS).absolute(), shapes_of(kind.init, config))


def _config(cls: type, fields: Mapping[str, Any], section: str) -> Any:
    """The dataclass that was written, with those in its fields."""
    parts = {
        name: _config(hint, fields[name], f"{section}.{name}")
        for name, hint in typing.get_type_hints(cls).items()
        if dataclasses.is_dataclass(hint) and isinstance(hint, type) and name in fields
    }
    return make(cls, upgraded(cls, {**fields, **parts}), section)
