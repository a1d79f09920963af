"""Quantized leaves in a model folder: what model.json says of them, and their arrays.

A leaf is written as its arrays, `blocks/mlp/up/packed` and so on; model.json has what is no array,
and a checksum, because a flipped bit of a code is still a code.
"""

import hashlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.convert.tensor_files import Stored
from gptjax.errors import UserError
from gptjax.models.layer_stack import ByLayer
from gptjax.models.quantized import LEAVES, is_quantized, kind_of_leaf

LAYERS = "layers"
ARRAY = "array"
"""Kind of a leaf that is one array of another type than float32."""


def _is_leaf(leaf: Any) -> bool:
    return is_quantized(leaf) or isinstance(leaf, ByLayer)


def by_leaf(params: Any) -> dict[str, Any]:
    """Leaves under their paths, quantized ones whole."""
    flat = jax.tree_util.tree_leaves_with_path(params, is_leaf=_is_leaf)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def describe_leaves(params: Any) -> dict[str, Any]:
    """What model.json says of each leaf that is no float32 array, by its path."""
    found: dict[str, Any] = {}
    for path, leaf in by_leaf(params).items():
        if isinstance(leaf, ByLayer):
            found[path] = [_describe(layer) for layer in leaf.layers]
        elif is_quantized(leaf) or leaf.dtype != np.float32:
            found[path] = _describe(leaf)
    return found


def _describe(leaf: Any) -> dict[str, Any]:
    if not is_quantized(leaf):
        return {"kind": ARRAY, "dtype": str(leaf.dtype), "sha256": _checksum([leaf])}
    arrays = [getattr(leaf, name) for name in leaf.arrays]
    return {"kind": kind_of_leaf(leaf), **leaf.settings, "sha256": _checksum(arrays)}


def _checksum(arrays: list[Any]) -> str:
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def read_leaf(
    stored: Mapping[str, Stored], path: str, said: Any, shape: tuple[int, ...], place: str
) -> Any:
    """The leaf that model.json describes.

    Args:
      shape: of the array that it stands for.
      place: of model.json, for sentences.

    Raises:
      UserError: where it is described in no known way, or an array is missing, of another shape,
        or not as it was written.
    """
    if isinstance(said, list):
        if len(said) != shape[0]:
            raise _damaged(place, path, f"describes {len(said)} layers of {shape[0]}")
        names = [f"{path}/{LAYERS}/{i}" for i in range(len(said))]
        pairs = zip(names, said, strict=True)
        return ByLayer(tuple(read_leaf(stored, *pair, shape[1:], place) for pair in pairs))
    try:
        kind, leaf = said["kind"], _read(stored, path, said, shape)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(place, path, f"is described wrongly ({error!r})") from error
    arrays = [leaf] if kind == ARRAY else [getattr(leaf, name) for name in leaf.arrays]
    if tuple(leaf.shape) != tuple(shape):
        raise _damaged(place, path, f"stands for {tuple(leaf.shape)} where {shape} is asked for")
    if _checksum(arrays) != said["sha256"]:
        raise _damaged(place, path, "was changed after it was written (its checksum differs)")
    return leaf


def _read(
    stored: Mapping[str, Stored], path: str, said: Mapping[str, Any], shape: tuple[int, ...]
) -> Any:
    if said["kind"] == ARRAY:
        return jnp.asarray(stored[path].read(), said["dtype"])
    cls: Any = LEAVES[said["kind"]]
    settings = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in said.items()
        if name not in ("kind", "sha256")
    }
    lead = shape[: len(shape) - len(settings["inputs"]) - len(settings["outputs"])]
    arrays = {name: stored[f"{path}/{name}"] for name in cls.arrays}
    shapes = cls.shapes(settings, lead, {name: part.shape for name, part in arrays.items()})
    wrong = [name for name, part in arrays.items() if part.shape != shapes[name]]
    if wrong:
        raise ValueError(f"{wrong[0]} has the shape {arrays[wrong[0]].shape}")
    # Not `jnp.asarray`, which compiles a program for every shape.
    return cls(**{n: jax.device_put(part.read_any()) for n, part in arrays.items()}, **settings)


def _damaged(place: str, path: str, what: str) -> UserError:
    return UserError(f"{place}: {path} {what}; quantize the model again")
