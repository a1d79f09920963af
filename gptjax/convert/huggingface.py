"""Weights of a Hugging Face folder to our parameters and back, tensor by tensor."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import ml_dtypes
import numpy as np

from gptjax import models
from gptjax.convert import safetensors
from gptjax.convert.attributes import family_of, read_attributes, write_attributes
from gptjax.convert.families import FAMILIES, Family, Tensor
from gptjax.errors import UserError, nearest
from gptjax.files import read_json, write_json
from gptjax.models import ModelConfig

__all__ = ["DTYPES", "family_of", "from_huggingface", "read_config", "to_huggingface"]

DTYPES = {
    "float32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}
SHARD_BYTES = 5_000_000_000
Params = Any


def read_config(directory: str | Path) -> ModelConfig:
    """The model that a folder's config.json describes.

    Raises:
      UserError: for a family or an attribute that is not known.
    """
    return read_attributes(read_json(Path(directory) / "config.json"))[1]


def from_huggingface(
    directory: str | Path, *, shardings: Any = None
) -> tuple[ModelConfig, Params]:
    """The config and float32 parameters of a folder with config.json and safetensors.

    Needs memory for the parameters and one tensor: files are mapped, each leaf is filled layer by
    layer. With `shardings`, a tree like the parameters, each leaf goes to its devices as soon as
    it is full, and the host holds one at a time.

    Raises:
      UserError: for unknown attributes or tensors, missing tensors and wrong shapes.
    """
    folder = Path(directory)
    family, config = read_attributes(read_json(folder / "config.json"))
    stored = _named(family, config, safetensors.open_folder(folder))
    shapes = _shapes(config)
    places = {} if shardings is None else _by_path(shardings)
    leaves: dict[str, Any] = {}
    for path, shape in shapes.items():
        leaf = np.empty(shape, np.float32)
        for at, name, tensor in _sources(family, config, shapes, path):
            if name not in stored:
                raise UserError(f"{folder} has no tensor {name}; fetch the whole model")
            wanted = _part_shapes(tensor, shapes, path, at)
            parts = _split(stored[name].read(), tensor, wanted, name)
            leaf[at] = parts[tensor.leaves.index(_inner(config, path))]
        leaves[path] = jax.device_put(leaf, places[path]) if path in places else leaf
    return config, _tree(leaves)


def to_huggingface(
    config: ModelConfig,
    params: Params,
    directory: str | Path,
    *,
    model_type: str = "",
    dtype: str = "float32",
    max_shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write config.json and safetensors that `transformers` loads.

    Args:
      model_type: the family to write; empty: the first that can express the config.
      dtype: of the stored weights: float32, bfloat16 or float16.
      max_shard_bytes: a file holds no more, unless one tensor does.

    Raises:
      UserError: where the family lacks something that the config has.
    """
    if model_type and model_type not in FAMILIES:
        raise UserError(f"model_type={model_type!r} is not known; {nearest(model_type, FAMILIES)}")
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype!r} is not known; {nearest(dtype, DTYPES)}")
    family = FAMILIES[model_type] if model_type else family_of(config)
    attributes = write_attributes(family, config)
    folder = Path(directory)
    folder.mkdir(parents=True, exist_ok=True)
    for old in (*folder.glob("model*.safetensors"), *folder.glob(f"{safetensors.INDEX}*")):
        old.unlink()
    write_json(folder / "config.json", {**attributes, "torch_dtype": dtype})
    tensors = _tensors(family, config, _by_path(params), DTYPES[dtype])
    safetensors.write_folder(folder, tensors, max_shard_bytes=max_shard_bytes)


def _tensors(
    family: Family, config: ModelConfig, leaves: dict[str, Any], dtype: np.dtype
) -> Iterator[tuple[str, np.ndarray]]:
    """Theirs by name, each made when it is asked for."""
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    for path in leaves:
        for at, name, tensor in _sources(family, config, shapes, path):
            inner = _inner(config, path)
            if tensor.leaves[0] != inner:
                continue
            around = path.removesuffix(inner)
            parts = [np.asarray(leaves[around + leaf][at]) for leaf in tensor.leaves]
            yield name, _join(parts, tensor).astype(dtype)


def _named(
    family: Family, config: ModelConfig, stored: dict[str, safetensors.Stored]
) -> dict[str, safetensors.Stored]:
    """The folder's tensors under their full names, without those that are no weights.

    Raises:
      UserError: for a tensor that the family's table does not know.
    """
    shapes = _shapes(config)
    known = {
        name for path in shapes for _, name, _ in _sources(family, config, shapes, path)
    }
    named = {}
    for name, tensor in stored.items():
        full = name if name in known or name == family.head else family.prefix + name
        if full in known:
            named[full] = tensor
        elif full == family.head and config.tied_head:
            _check_tied(family, name, stored)
        elif not any(re.search(pattern, name) for pattern in family.ignored):
            raise UserError(
                f"tensor {name} is not part of a {family.model_type}; {nearest(name, known)}"
            )
    return named


def _check_tied(family: Family, name: str, stored: dict[str, safetensors.Stored]) -> None:
    """Some folders keep the tied head a second time; it must be the embedding."""
    (table,) = (t.name for t in family.tensors if t.leaves == ("embed/tokens",))
    full = family.prefix + table
    embedding = stored.get(full) or stored.get(table)
    if embedding is None or not np.array_equal(embedding.read(), stored[name].read()):
        raise UserError(
            f"config.json ties the head, and {name} is not the embedding; set "
            "tie_word_embeddings=false in config.json"
        )


def _sources(
    family: Family, config: ModelConfig, shapes: dict[str, tuple[int, ...]], path: str
) -> Iterator[tuple[tuple[int, ...], str, Tensor]]:
    """(index into our leaf, their tensor's name, its row) of everything that fills a leaf."""
    if path == "head":
        yield (), family.head, Tensor(family.head, ("head",))
        return
    inner = _inner(config, path)
    rows = [row for row in family.tensors if inner in row.leaves]
    if not rows:
        raise UserError(
            f"{path} has no tensor in a {family.model_type}; name another family"
        )
    (row,) = rows
    if "{i}" not in row.name:
        yield (), family.prefix + row.name, row
        return
    for j, i in enumerate(_layers(config, path)):
        name = family.prefix + row.name.replace("{i}", str(i))
        if "{e}" not in name:
            yield (j,), name, row
            continue
        for e in range(config.num_experts):
            yield (j, e), name.replace("{e}", str(e)), row


def _inner(config: ModelConfig, path: str) -> str:
    """The path as the tables have it: below the stack of blocks."""
    if not path.startswith("blocks/"):
        return path
    return path.split("/", 1 if len(config.stacks) == 1 else 2)[-1]


def _layers(config: ModelConfig, path: str) -> list[int]:
    """The numbers of the layers that a stacked leaf holds."""
    layers = config.layers_of_depth
    if len(config.stacks) == 1:
        return list(range(len(layers)))
    structure = path.split("/")[1]
    return [i for i, layer in enumerate(layers) if layer.structure == structure]


def _part_shapes(
    tensor: Tensor, shapes: dict[str, tuple[int, ...]], path: str, at: tuple[int, ...]
) -> list[tuple[int, ...]]:
    around = next(path.removesuffix(leaf) for leaf in tensor.leaves if path.endswith(leaf))
    return [shapes[around + leaf][len(at) :] for leaf in tensor.leaves]


def _split(
    array: np.ndarray, tensor: Tensor, shapes: list[tuple[int, ...]], name: str
) -> list[np.ndarray]:
    """Their tensor as our leaves."""
    if tensor.squeezed and array.ndim == 3 and array.shape[1] == 1:
        array = array[:, 0]
    rows = [int(np.prod(shape[: tensor.inputs], dtype=np.int64)) for shape in shapes]
    columns = [
        int(np.prod(shape, dtype=np.int64)) // row for shape, row in zip(shapes, rows, strict=True)
    ]
    wanted = (rows[0], sum(columns)) if tensor.inputs and len(shapes[0]) > 1 else None
    if len(shapes) == 1 and not tensor.transposed:
        if array.size != int(np.prod(shapes[0], dtype=np.int64)):
            raise _wrong_shape(name, array.shape, shapes[0])
        return [array.reshape(shapes[0])]
    matrix = array.T if tensor.transposed else array
    if wanted is not None and matrix.shape != wanted:
        raise _wrong_shape(name, matrix.shape, wanted)
    if wanted is None and matrix.shape[-1] != sum(columns):
        raise _wrong_shape(name, matrix.shape, (sum(columns),))
    if tensor.by_head:
        heads = shapes[0][-2]
        cut = matrix.reshape(*matrix.shape[:-1], heads, len(shapes), -1)
        return [cut[..., j, :].reshape(shape) for j, shape in enumerate(shapes)]
    ends = np.cumsum(columns)[:-1]
    parts = np.split(matrix, ends, axis=-1)
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


def _join(parts: list[np.ndarray], tensor: Tensor) -> np.ndarray:
    """Our leaves as their tensor: the inverse of `_split`."""
    if len(parts) == 1 and not tensor.transposed and tensor.inputs < 2:
        (part,) = parts
        return part if tensor.inputs or part.ndim == 1 else part.reshape(-1)
    if tensor.by_head:
        matrix = np.stack(parts, axis=-2)
        keep = tensor.inputs
        matrix = matrix.reshape(*matrix.shape[:keep], -1)
    else:
        flat = [
            part.reshape(int(np.prod(part.shape[: tensor.inputs])), -1)
            if tensor.inputs else part.reshape(-1)
            for part in parts
        ]  # fmt: skip
        matrix = np.concatenate(flat, axis=-1)
    matrix = np.ascontiguousarray(matrix.T) if tensor.transposed else matrix
    return matrix[:, None] if tensor.squeezed else matrix


def _wrong_shape(name: str, got: tuple[int, ...], wanted: tuple[int, ...]) -> UserError:
    return UserError(
        f"tensor {name} has the shape {tuple(got)}, and config.json asks for {tuple(wanted)}; "
        "one of them is another model's"
    )


def _shapes(config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Our leaves' shapes by path, without allocating them."""
    tree = jax.eval_shape(lambda key: models.init(config, key), jax.random.key(0))
    return {path: leaf.shape for path, leaf in _by_path(tree).items()}


def _by_path(tree: Any) -> dict[str, Any]:
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def _tree(leaves: dict[str, Any]) -> Params:
    tree: dict[str, Any] = {}
    for path, leaf in leaves.items():
        *parents, last = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[last] = leaf
    return tree


