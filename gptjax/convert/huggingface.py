"""Hugging Face folders to config and parameters and back, tensor by tensor."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from gptjax.convert import quantized_leaves, registry, tensor_files
from gptjax.convert.config_json import family_of
from gptjax.convert.families import Tensor
from gptjax.convert.tensor_files import Stored
from gptjax.convert.tensor_map import TensorMap, by_path
from gptjax.errors import UserError, nearest
from gptjax.files import read_json, write_json

__all__ = [
    "DTYPES",
    "family_of",
    "from_huggingface",
    "join",
    "read_config",
    "split",
    "to_huggingface",
]

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
SHARD_BYTES = 5_000_000_000
Params = Any


def read_config(directory: str | Path) -> Any:
    """The model that a folder's config.json describes: a decoder, or one with vision.

    Raises:
      UserError: for a family or an attribute that is not known.
    """
    return _tensor_map(Path(directory)).config


def from_huggingface(directory: str | Path, *, shardings: Any = None) -> tuple[Any, Params]:
    """The config and float32 parameters of a folder with config.json and safetensors.

    Needs memory for the parameters and one tensor: files are mapped, each leaf is filled layer by
    layer. With `shardings`, a tree like the parameters, each leaf goes to its devices as soon as
    it is full, and the host holds one at a time.

    Raises:
      UserError: for unknown attributes or tensors, missing tensors and wrong shapes.
    """
    folder = Path(directory)
    tensor_map = _tensor_map(folder)
    stored = _named(tensor_map, tensor_files.open_folder(folder))
    shapes = {path: leaf.shape for path, leaf in by_path(tensor_map.shapes).items()}
    places = {} if shardings is None else by_path(shardings)
    leaves: list[Any] = []
    for path, shape in shapes.items():
        leaf = np.empty(shape, np.float32)
        for source in tensor_map.sources[path]:
            if source.name not in stored:
                raise UserError(f"{folder} has no tensor {source.name}; fetch the whole model")
            wanted = [shapes[each][len(source.at) :] for each in source.paths]
            parts = split(stored[source.name].read(), source.tensor, wanted, source.name)
            leaf[source.at] = parts[source.paths.index(path)]
        leaves.append(jax.device_put(leaf, places[path]) if path in places else leaf)
    return tensor_map.config, jax.tree.unflatten(jax.tree.structure(tensor_map.shapes), leaves)


def to_huggingface(
    config: Any,
    params: Params,
    directory: str | Path,
    *,
    model_type: str = "",
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and safetensors that `transformers` loads.

    Args:
      config: a ModelConfig, VisionConfig, ProjectedVision or TiledVision.
      model_type: the family to write; empty: the first that can express the config.
      dtype: of the stored weights: float32, bfloat16 or float16.
      max_shard_bytes: a file holds no more, unless one tensor does.

    Raises:
      UserError: where the family lacks something that the config has.
    """
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; {nearest(dtype, DTYPES)}")
    if quantized_leaves.describe_leaves(params):
        raise UserError(
            "a quantized model has no place in a folder of `transformers`; convert the one that it "
            "was made from"
        )
    attributes, tensor_map = registry.write_map(config, model_type)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("model*.safetensors"), *folder.glob(f"{tensor_files.INDEX}*")):
        old.unlink()
    write_json(folder / "config.json", {**attributes, "torch_dtype": dtype})
    tensors = _tensors(tensor_map, by_path(params), DTYPES[dtype])
    tensor_files.write_folder(folder, tensors, max_shard_bytes=max_shard_bytes)


def _tensor_map(folder: Path) -> TensorMap:
    """By config.json, and where that does not say what there is, by the tensors' names."""
    attributes = read_json(folder / "config.json")
    if not isinstance(attributes, dict):
        raise UserError(f"{folder / 'config.json'} is no object of attributes; fetch it again")
    return registry.read_map(attributes, lambda: tensor_files.open_folder(folder))


def _tensors(
    tensor_map: TensorMap, leaves: dict[str, Any], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Theirs by name, each made when it is asked for."""
    for path in leaves:
        for source in tensor_map.sources[path]:
            if source.paths[0] == path:
                parts = [np.asarray(leaves[each][source.at], dtype) for each in source.paths]
                yield source.name, join(parts, source.tensor)


def _named(tensor_map: TensorMap, stored: dict[str, Stored]) -> dict[str, Stored]:
    """The folder's tensors under their full names, without those that are no weights.

    Raises:
      UserError: for a tensor that the tensor_map does not know.
    """
    known = tensor_map.names
    again: dict[str, Stored] = {}
    named: dict[str, Stored] = {}
    for name, tensor in stored.items():
        full = tensor_map.full_name(name)
        if full in named:
            raise UserError(
                f"tensors {named[full].name} and {name} are both the {full} of a "
                f"{tensor_map.model_type}; remove one of them"
            )
        if full in known:
            named[full] = tensor
        elif full in tensor_map.repeats:
            again[full] = tensor
        elif not any(re.search(pattern, name) for pattern in tensor_map.ignored):
            raise UserError(
                f"tensor {name} is not part of a {tensor_map.model_type}; {nearest(name, known)}"
            )
    for name, tensor in again.items():  # some folders keep a tied head alone
        _check_tied(name, tensor, named.setdefault(tensor_map.repeats[name], tensor))
    return named


def _check_tied(name: str, tensor: Stored, embedding: Stored) -> None:
    """Some folders keep the tied head a second time; it must be the embedding."""
    if embedding is not tensor and not np.array_equal(embedding.read(), tensor.read()):
        raise UserError(
            f"config.json ties the head, and {name} is not the embedding; set "
            "tie_word_embeddings=false in config.json"
        )


def split(
    array: np.ndarray, tensor: Tensor, shapes: list[tuple[int, ...]], name: str
) -> list[np.ndarray]:
    """Their tensor as our leaves.

    Raises:
      UserError: for another shape than config.json asks for.
    """
    wanted = _their_shape(tensor, shapes)
    if tensor.squeezed and array.shape == (wanted[0], wanted[2]):
        array = array[:, None]  # some files have no middle axis
    if array.shape != wanted:
        raise UserError(
            f"tensor {name} has the shape {array.shape}, and config.json asks for {wanted}; one of "
            "them is another model's"
        )
    if tensor.patch:
        return [array.transpose(2, 3, 1, 0).reshape(shapes[0])]
    if tensor.below:
        return np.split(array, np.cumsum([shape[0] for shape in shapes])[:-1])
    if len(shapes) == 1 and not tensor.transposed:
        return [array.reshape(shapes[0])]
    array = array[:, 0] if tensor.squeezed else array
    matrix = array.T if tensor.transposed else array
    together = _together(tensor, shapes)
    ends = np.cumsum([_columns(tensor, shape) for shape in shapes])[:-1] // together
    parts = np.split(matrix.reshape(*matrix.shape[:-1], together, -1), ends, axis=-1)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _their_shape(tensor: Tensor, shapes: list[tuple[int, ...]]) -> tuple[int, ...]:
    """The shape of their tensor that holds our leaves: that of `join`'s result."""
    first = shapes[0]
    if tensor.patch:
        return (first[-1], first[0] // tensor.patch**2, tensor.patch, tensor.patch)
    if tensor.below:
        return (sum(shape[0] for shape in shapes), *first[1:])
    if tensor.flat:
        return (first[0], math.prod(first[1:]))
    if len(shapes) == 1 and not tensor.transposed and tensor.inputs < 2:
        plain = (1,) * tensor.leading + first
        return plain if tensor.inputs or len(plain) == 1 else (math.prod(plain),)
    rows = (math.prod(first[: tensor.inputs]),) if tensor.inputs else ()
    matrix = (*rows, sum(_columns(tensor, shape) for shape in shapes))
    matrix = matrix[::-1] if tensor.transposed else matrix
    return (matrix[0], 1, *matrix[1:]) if tensor.squeezed else matrix


def _columns(tensor: Tensor, shape: tuple[int, ...]) -> int:
    return math.prod(shape[tensor.inputs :])


def join(parts: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """Our leaves as their tensor: the inverse of `split`."""
    if tensor.patch:
        p, (part,) = tensor.patch, parts
        pixels = part.reshape(p, p, -1, part.shape[-1])
        return np.ascontiguousarray(pixels.transpose(3, 2, 0, 1))
    if tensor.below:
        return np.concatenate(parts)
    if tensor.flat:
        return parts[0].reshape(len(parts[0]), -1)
    if len(parts) == 1 and not tensor.transposed and tensor.inputs < 2:
        part = parts[0].reshape((1,) * tensor.leading + parts[0].shape)
        return part if tensor.inputs or part.ndim == 1 else part.reshape(-1)
    rows = [int(np.prod(parts[0].shape[: tensor.inputs]))] if tensor.inputs else []
    together = _together(tensor, [part.shape for part in parts])
    cut = [part.reshape(*rows, together, -1) for part in parts]
    matrix = np.concatenate(cut, axis=-1).reshape(*rows, -1)
    matrix = np.ascontiguousarray(matrix.T) if tensor.transposed else matrix
    return matrix[:, None] if tensor.squeezed else matrix


def _together(tensor: Tensor, shapes: Sequence[tuple[int, ...]]) -> int:
    """Groups of columns that theirs has one after the other, each with its part of every leaf."""
    if tensor.by_column:
        return shapes[0][-1]
    return min(shape[-2] for shape in shapes) if tensor.by_head else 1
