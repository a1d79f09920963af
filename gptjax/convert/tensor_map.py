"""Tensor map of a model: which Hugging Face tensors fill which of our parameters."""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

import jax

from gptjax import models
from gptjax.convert.families import Family, Tensor
from gptjax.errors import UserError
from gptjax.models import ModelConfig


@dataclasses.dataclass(frozen=True)
class Source:
    """A tensor of theirs, and the part of our leaves that it holds.

    Attributes:
      at: index into each of the leaves.
      name: the tensor's.
      tensor: its row of a table.
      paths: our leaves, in the order of the row's.
    """

    at: tuple[int, ...]
    name: str
    tensor: Tensor
    paths: tuple[str, ...]


Sources = dict[str, list[Source]]  # by the path of our leaf
Names = Callable[[], Collection[str]]  # of a folder's tensors, asked for where they matter


@dataclasses.dataclass(frozen=True)
class TensorMap:
    """A model and where its parameters are.

    Attributes:
      model_type: theirs, for sentences.
      config: ours.
      shapes: a tree like the parameters.
      sources: for each leaf, by its path, all that fills it.
      aliases: (pattern, replacement), applied in order to a name that is not known.
      repeats: tensors that some folders hold a second time, and which they must equal.
      ignored: tensors that are no weights, as regular expressions.
    """

    model_type: str
    config: Any
    shapes: Any
    sources: Sources
    aliases: tuple[tuple[str, str], ...] = ()
    repeats: Mapping[str, str] = dataclasses.field(default_factory=dict)
    ignored: tuple[str, ...] = ()

    @functools.cached_property
    def names(self) -> set[str]:
        """Of all tensors."""
        return {source.name for some in self.sources.values() for source in some}

    def full_name(self, name: str) -> str:
        """The name in this tensor_map of a tensor that a folder may name in an older way."""
        if name in self.names or name in self.repeats:
            return name
        for pattern, replacement in self.aliases:
            name = re.sub(pattern, replacement, name)
        return name


@functools.lru_cache(maxsize=64)
def shapes_of(init: Callable[[Any, jax.Array], Any], config: Any) -> Any:
    """The tree of `init`'s parameters, without allocating them."""
    return jax.eval_shape(functools.partial(init, config), jax.random.key(0))


def by_path(tree: Any) -> dict[str, Any]:
    """The leaves under their paths, `a/b/c`, in the order of the tree."""
    flat = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in flat}


def text_map(family: Family, config: ModelConfig) -> TensorMap:
    """The tensor_map of a decoder.

    Raises:
      UserError: for a leaf that the family does not have.
    """
    shapes = shapes_of(models.init, config)
    sources = {path: list(_sources(family, config, path)) for path in by_path(shapes)}
    (table,) = (row.name for row in family.tensors if row.leaves == ("embed/tokens",))
    repeats = {family.head: family.prefix + table} if config.tied_head else {}
    aliases = ((r"^", family.prefix),)
    return TensorMap(family.model_type, config, shapes, sources, aliases, repeats, family.ignored)


def inside(sources: Sources, ours: str, theirs: str) -> Sources:
    """The sources of a part of a larger model: prefixes before our paths and their names."""
    return {
        ours + path: [
            dataclasses.replace(
                source,
                name=theirs + source.name,
                paths=tuple(ours + each for each in source.paths),
            )
            for source in some
        ]
        for path, some in sources.items()
    }


def _sources(family: Family, config: ModelConfig, path: str) -> Iterator[Source]:
    """Everything that fills a leaf."""
    if path == "head":
        yield Source((), family.head, Tensor(family.head, ("head",)), (path,))
        return
    inner = _inner(config, path)
    rows = [row for row in family.tensors if inner in row.leaves]
    if not rows:
        raise UserError(f"{path} has no tensor in a {family.model_type}; name another family")
    (row,) = rows
    around = path.removesuffix(inner)
    paths = tuple(around + leaf for leaf in row.leaves)
    if "{i}" not in row.name:
        yield Source((), family.prefix + row.name, row, paths)
        return
    for j, i in enumerate(_layers(config, path)):
        name = family.prefix + row.name.replace("{i}", str(i))
        if "{e}" not in name:
            yield Source((j,), name, row, paths)
            continue
        for e in range(config.experts.count):
            yield Source((j, e), name.replace("{e}", str(e)), row, paths)


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
