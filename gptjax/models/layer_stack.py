"""The layer stack: blocks that run scanned, unrolled or in segments, for any layer pattern.

Every parameter has a leading axis of length `depth`, or of the layers of its structure, whether the
blocks are scanned or unrolled, so that a checkpoint does not depend on that choice.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax.models.block import Block
from gptjax.models.config import Layer, ModelConfig
from gptjax.models.experts import ROUTING, Routing
from gptjax.models.mixers.mixer import TokenInfo
from gptjax.models.mlp import MLPS
from gptjax.models.remat import (
    in_segments,
    recomputed,
    recomputed_module,
    scan_in_segments,
    segment_length,
)
from gptjax.ops.backend import platform

Between = Mapping[int, Callable[[jax.Array], jax.Array]]
"""Blocks between the layers of a stack, by the number of the layer that each comes before."""


class Stacks(nn.Module):
    """One stack of blocks for each structure, where layers do not have the same parameters."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: TokenInfo) -> jax.Array:
        for name, layers in self.config.stacks.items():
            x_BTD, _ = scan_of(self.config, layers, name, fresh=True)(x_BTD, info)
        return x_BTD


def scan_of(config: ModelConfig, layers: tuple[Layer, ...], name: str, *, fresh: bool) -> Any:
    """Blocks like the first of `layers`, scanned, their parameters stacked below `name`.

    Flax traces a block once more to check what is broadcast, which here is nothing; but fresh
    parameters are drawn in the second trace, with other numbers than in a first one.
    """
    block = recomputed_module(config.remat, Block)
    stack = nn.scan(
        block,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        in_axes=nn.broadcast,
        length=len(layers),
        metadata_params={nn.PARTITION_NAME: "layers"},
        check_constancy_invariants=fresh,
    )
    return stack(config, layers[0], name=name)


def unrolled(config: ModelConfig) -> bool:
    """Whether the blocks are unrolled: asked for, or 'auto' on CPU, where a scan costs time.

    Not where something is computed again: XLA's CPU compiler finds that unrolled blocks compute
    the same twice, and keeps it.
    """
    if config.layers == "auto":
        shallow = config.depth <= 24 and config.remat == "none"
        return platform() == "cpu" and shallow
    return config.layers == "unroll"


def is_one_scan(config: ModelConfig) -> bool:
    """Whether one linen scan runs all blocks: alike, no router reports, and nothing is drawn."""
    alike = len(set(config.layers_of_depth)) == 1 and not config.experts.count
    alike = alike and not config.dropout.is_on  # the layers' seeds differ
    return alike and not unrolled(config) and config.remat != "sqrt"


def stacks_of(config: ModelConfig, blocks: Any) -> dict[str, Any]:
    """The parameters below `blocks` by structure; with one structure they have no names of it."""
    return blocks if len(config.stacks) > 1 else dict.fromkeys(config.stacks, blocks)


def run_blocks(
    config: ModelConfig,
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    info: TokenInfo,
    seeds_B: jax.Array | None = None,
    between: Between | None = None,
) -> tuple[jax.Array, Routing | None]:
    """The residual stream after all layers of `config`, whose parameters are stacked by structure.

    Args:
      seeds_B: uint32, one for each sequence, of dropout and the routers' noise.
      between: further blocks, by the number of the layer that they come before; all are unrolled.

    Returns:
      Also the routers' statistics, in the order of the layers; None without routers.
    """
    unroll = unrolled(config) or has_by_layer(stacks) or between
    run: Any = _scanned_by_period
    if unroll:
        run = functools.partial(_unrolled_in_segments, between=between)
    inputs = {name: {"params": stack} for name, stack in stacks.items()}
    if seeds_B is not None:
        for name in inputs:
            inputs[name]["seeds"] = _seeds_of_layers(config, name, seeds_B)
    return run(config, config.layers_of_depth, inputs, x_BTD, info)


def _seeds_of_layers(config: ModelConfig, structure: str, seeds_B: jax.Array) -> jax.Array:
    """[layers of the structure, B] uint32."""
    layers = config.layers_of_depth
    numbers = jnp.array([i for i, layer in enumerate(layers) if layer.structure == structure])

    def of(number: jax.Array, seed: jax.Array) -> jax.Array:
        return jax.random.bits(jax.random.fold_in(jax.random.key(seed), number))

    return jax.vmap(lambda number: jax.vmap(functools.partial(of, number))(seeds_B))(numbers)


def _unrolled(
    config: ModelConfig,
    layers: tuple[Layer, ...],
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    info: TokenInfo,
    *,
    segment: int = 0,
    between: Between | None = None,
) -> tuple[jax.Array, Routing | None]:
    """Apply `layers` one by one, each to the next slice of its stack of parameters.

    With `segment`, so many at a time are recomputed in the backward pass.
    """
    own, blocks = by_layer(layers, stacks), between or {}

    def in_turn(some: tuple, params: Any, x_BTD: jax.Array) -> tuple[jax.Array, list]:
        found = []
        for (number, layer), one in zip(some, params, strict=True):
            if number in blocks:
                x_BTD = blocks[number](x_BTD)
            x_BTD, routing = block_of(config, layer)(one, x_BTD, info)
            found.append(routing)
        return x_BTD, found

    x_BTD, found = in_segments(in_turn, tuple(enumerate(layers)), own, x_BTD, segment)
    return x_BTD, _joined(found)


def by_layer(layers: tuple[Layer, ...], stacks: dict[str, Any]) -> list[Any]:
    """The slice of each of `layers` of its stack."""
    slices = {
        name: iter(unstacked(stacks[name]))
        for name in dict.fromkeys(layer.structure for layer in layers)
    }
    return [next(slices[layer.structure]) for layer in layers]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ByLayer:
    """A stack of leaves that are not alike, such as weights of different bits: it is unrolled."""

    layers: tuple[Any, ...]


def _is_by_layer(leaf: Any) -> bool:
    return isinstance(leaf, ByLayer)


def has_by_layer(tree: Any) -> bool:
    """Whether a stack cannot be scanned because its layers are not alike."""
    return any(map(_is_by_layer, jax.tree.leaves(tree, is_leaf=_is_by_layer)))


def unstacked(tree: Any) -> list[Any]:
    """The slices of all leaves along their first axis."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=_is_by_layer)
    # The transpose of unstack is one stack; that of indexing would be a padded sum per layer.
    each = zip(*(_slices(leaf) for leaf in leaves), strict=True)
    return [jax.tree.unflatten(structure, one) for one in each]


def _slices(leaf: Any) -> Any:
    return leaf.layers if _is_by_layer(leaf) else jnp.unstack(leaf)


def _joined(found: list[Routing | None]) -> Routing | None:
    """The routers' statistics, one layer after another."""
    real = [routing for routing in found if routing is not None]
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *real) if real else None


def _unrolled_in_segments(
    config: ModelConfig, layers: tuple[Layer, ...], *rest: Any, between: Between | None
) -> tuple[jax.Array, Routing | None]:
    segment = segment_length(config.remat, len(layers))
    return _unrolled(config, layers, *rest, segment=segment, between=between)


def _scanned_by_period(
    config: ModelConfig,
    layers: tuple[Layer, ...],
    stacks: dict[str, Any],
    x_BTD: jax.Array,
    info: TokenInfo,
) -> tuple[jax.Array, Routing | None]:
    """Unroll the layers before the pattern, scan over its periods, unroll what is left.

    Under `sqrt` the scan is one over segments, each a scan over its periods.
    """
    period = config.period
    start = config.dense_layers
    whole = (len(layers) - start) // period
    end = start + whole * period
    counts = _counts(layers[:start]), _counts(layers[start:end])

    def part(name: str, leaf: jax.Array, number: int) -> jax.Array:
        first = counts[0].get(name, 0)
        last = first + counts[1].get(name, 0)
        if number == 0:
            return leaf[:first]
        if number == 2:
            return leaf[last:]
        each = (last - first) // whole
        # Without an axis of length one, for which XLA copies all parameters first.
        by_period = (whole,) if each == 1 else (whole, each)
        return leaf[first:last].reshape(*by_period, *leaf.shape[1:])

    def parts(number: int, which: tuple[Layer, ...]) -> dict[str, Any]:
        return {
            name: jax.tree.map(lambda leaf: part(name, leaf, number), stacks[name])  # noqa: B023
            for name in _counts(which)
        }

    def body(x_BTD: jax.Array, slices: Any) -> tuple[jax.Array, Routing | None]:
        one = layers[start : start + period]
        stacked = {
            name: slices[name] if count > 1 else jax.tree.map(lambda leaf: leaf[None], slices[name])
            for name, count in _counts(one).items()
        }
        return _unrolled(config, one, stacked, x_BTD, info)

    def some(number: int, x_BTD: jax.Array) -> tuple[jax.Array, Routing | None]:
        which = layers[:start] if number == 0 else layers[end:]
        return _unrolled(config, which, parts(number, which), x_BTD, info)

    x_BTD, before = some(0, x_BTD)
    within: list[Routing | None] = []
    if whole:
        length = segment_length(config.remat, config.depth, period=period) // period
        x_BTD, within = scan_in_segments(body, x_BTD, parts(1, layers[start:end]), length)
    x_BTD, after = some(2, x_BTD)
    return x_BTD, _joined([before, *within, after])


def _counts(layers: tuple[Layer, ...]) -> dict[str, int]:
    """How many layers there are of each structure."""
    names = [layer.structure for layer in layers]
    return {name: names.count(name) for name in dict.fromkeys(names)}


def block_of(config: ModelConfig, layer: Layer) -> Any:
    """(parameters and seeds of one block, x, info) -> (x, its router's statistics).

    Recomputed in the backward pass if so set.
    """
    collection, name = ROUTING

    def block(
        one: dict[str, Any], x_BTD: jax.Array, info: jax.Array | None
    ) -> tuple[jax.Array, Routing | None]:
        module = Block(config, layer, parent=None)
        inputs = (x_BTD, info, one.get("seeds"))
        (x_BTD, _), sown = module.apply({"params": one["params"]}, *inputs, mutable=[collection])
        if not MLPS[layer.mlp].routes:
            return x_BTD, None
        (routing,) = sown[collection]["mlp"][name]
        return x_BTD, jax.tree.map(lambda leaf: leaf[None], routing)

    return recomputed(config.remat, block)
