"""Matrices of a model: which of its parameters are multiplied, and along which of their axes.

They are found by calling each kind of block with one parameter in disguise, so that a mixer or
feed-forward from outside needs no table: whatever goes through `gptjax.models.product` can be
quantized.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp

from gptjax import models
from gptjax.models import Layer, ModelConfig, TokenInfo
from gptjax.models.block import Block
from gptjax.models.layer_stack import stacks_of
from gptjax.models.product import dense, multiply, multiply_ragged, multiply_slots

EMBEDDING, HEAD = "embed/tokens", "head"


@dataclasses.dataclass(frozen=True)
class Matrix:
    """A parameter that is multiplied, in one layer.

    Attributes:
      path: of the parameter, whose first axis holds the layers of its stack.
      slice: its place on that axis; None where there are no layers.
      name: the path with the layer's number: `blocks/3/mlp/up`.
      inputs, outputs: sizes of the axes that are summed over, and of the others.
      lead: sizes of the axes in front of both: experts.
      layer: its number; None where there are no layers.
    """

    path: str
    slice: int | None
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    lead: tuple[int, ...] = ()
    layer: int | None = None

    @property
    def inner(self) -> str:
        """The path below the layer."""
        return self.name.split("/", 2)[-1]

    @property
    def size(self) -> int:
        """Weights."""
        return math.prod((*self.lead, *self.inputs, *self.outputs))

    @property
    def layered(self) -> bool:
        """Whether it is in a layer, and neither the embedding nor the head."""
        return self.layer is not None

    @property
    def calibrated(self) -> bool:
        """Whether it is a product of all tokens, so that one Hessian describes its inputs."""
        return self.layered and not self.lead


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Watched:
    """An array that tells `watch` of every product with it: (name, inputs, lead, x)."""

    array: jax.Array
    name: str = dataclasses.field(metadata={"static": True})
    watch: Any = dataclasses.field(metadata={"static": True})


@dense.register
def _(leaf: Watched, dtype: Any) -> jax.Array:
    return leaf.array.astype(dtype)


@multiply.register
def _(leaf: Watched, x: jax.Array, bias: Any, inputs: int, dtype: Any) -> jax.Array:
    leaf.watch(leaf.name, inputs, 0, x)
    return multiply(leaf.array, x, bias, inputs, dtype)


@multiply_ragged.register
def _(leaf: Watched, x_SD: jax.Array, sizes_E: jax.Array) -> jax.Array:
    leaf.watch(leaf.name, 1, 1, x_SD)
    return multiply_ragged(leaf.array, x_SD, sizes_E)


@multiply_slots.register
def _(leaf: Watched, x_BECD: jax.Array) -> jax.Array:
    leaf.watch(leaf.name, 1, 1, x_BECD)
    return multiply_slots(leaf.array, x_BECD)


@functools.lru_cache(maxsize=64)
def matrices(config: ModelConfig) -> tuple[Matrix, ...]:
    """Every matrix of a decoder: of all layers in their order, the embedding, an untied head."""
    D, V = (config.width,), (config.vocab_size,)
    shapes = shapes_of(config)
    found = []
    places: dict[str, int] = {}
    for number, layer in enumerate(config.layers_of_depth):
        j = places.setdefault(layer.structure, 0)
        places[layer.structure] += 1
        for inner, shape, axes, lead in _products(config, layer):
            path = f"{prefix(config, layer)}/{inner}"
            middle, name = lead + axes, f"blocks/{number}/{inner}"
            sizes = shape[lead:middle], shape[middle:], shape[:lead]
            found.append(Matrix(path, j, name, *sizes, number))
    found.append(Matrix(EMBEDDING, None, EMBEDDING, D, V))
    return (*found, *([Matrix(HEAD, None, HEAD, D, V)] if HEAD in shapes else []))


@functools.lru_cache(maxsize=64)
def shapes_of(config: ModelConfig) -> Any:
    """The tree of parameters without their numbers."""
    return jax.eval_shape(functools.partial(models.init, config), jax.random.key(0))


def prefix(config: ModelConfig, layer: Layer) -> str:
    """Where the parameters of a layer's stack are."""
    return "blocks" if len(config.stacks) == 1 else f"blocks/{layer.structure}"


@functools.lru_cache(maxsize=256)
def _products(
    config: ModelConfig, layer: Layer
) -> tuple[tuple[str, tuple[int, ...], int, int], ...]:
    """(path in the block, shape, input axes, axes in front) of each that is multiplied."""
    stack = stacks_of(config, shapes_of(config)["blocks"])[layer.structure]
    one = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype), stack)
    flat, structure = jax.tree_util.tree_flatten_with_path(one)
    found = []
    for number, (path, leaf) in enumerate(flat):
        seen = _seen(config, layer, structure, [shape for _, shape in flat], number)
        if seen:
            inputs, lead = seen[0]
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found.append((name, leaf.shape, inputs, lead))
    return tuple(found)


def _seen(
    config: ModelConfig, layer: Layer, structure: Any, shapes: list, number: int
) -> list[tuple[int, int]]:
    """(input axes, axes in front) of each product of a block with its parameter `number`."""
    seen: list[tuple[int, int]] = []
    if len(shapes[number].shape) < 2:
        return seen

    def run(leaves: list[jax.Array], x_BTD: jax.Array) -> Any:
        disguised: list[Any] = list(leaves)
        disguised[number] = Watched(leaves[number], "", lambda name, *at: seen.append(at[:2]))
        params = jax.tree.unflatten(structure, disguised)
        module = Block(config, layer, parent=None)
        return module.apply({"params": params}, x_BTD, TokenInfo(), None, mutable=True)[0]

    x_BTD = jax.ShapeDtypeStruct((1, min(8, config.seq_len), config.width), jnp.float32)
    try:
        jax.eval_shape(run, shapes, x_BTD)
    except (TypeError, AttributeError):
        return []  # used as an array: no product
    return seen


def inside(tree: Any, path: str, leaf: Any = None) -> Any:
    """The leaf under a path `a/b/c` of nested dicts; with `leaf` the tree that has it there."""
    first, _, rest = path.partition("/")
    if leaf is None:
        return inside(tree[first], rest) if rest else tree[first]
    return {**tree, first: inside(tree[first], rest, leaf) if rest else leaf}
