"""Calibration: the second moments of the inputs of every matrix, layer by layer.

Each layer sees what the quantized layers before it give, as it will when the model is used.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.models import Layer, ModelConfig, Stages, TokenInfo
from gptjax.models.block import Block
from gptjax.quant.matrices import Matrix, Watched, inside, matrices

SEQUENCES = 8
"""Sequences that go through a layer at a time."""


@dataclasses.dataclass(frozen=True)
class Moments:
    """What calibration saw of one matrix.

    Attributes:
      hessian_II: Σ x·xᵀ over the tokens.
      tokens: how many there were, counted where they were multiplied.
    """

    hessian_II: np.ndarray
    tokens: int


Make = Callable[[Matrix, jax.Array, Moments], Any]


def layer_by_layer(
    config: ModelConfig, params: Any, windows_NT: np.ndarray, make: Make
) -> dict[str, Any]:
    """The leaves of all calibrated matrices, by name.

    Args:
      params: with the embedding as it will be used.
      windows_NT: calibration text, one sequence a row.
      make: the leaf of a matrix from its array and what was seen of its inputs.
    """
    embed = jax.jit(lambda params, tokens: Stages(config).embed(params, tokens))
    streams = [embed({"embed": params["embed"]}, some) for some in _batches(windows_NT)]
    made: dict[str, Any] = {}
    for number, layer in enumerate(config.layers_of_depth):
        one = {m.inner: m for m in matrices(config) if m.layer == number}
        watched = tuple(name for name, matrix in one.items() if matrix.calibrated)
        block = _slice(config, params, layer, number)
        seen = _added([_moments(config, layer, watched, block, x_BTD) for x_BTD in streams])
        for name in watched:
            matrix = one[name]
            leaf = make(matrix, inside(block, name), Moments(*seen[name]))
            made[matrix.name] = leaf
            block = inside(block, name, leaf)
        streams = [_after(config, layer, block, x_BTD) for x_BTD in streams]
    return made


def _batches(windows_NT: np.ndarray) -> Iterator[jax.Array]:
    for start in range(0, len(windows_NT), SEQUENCES):
        yield jnp.asarray(windows_NT[start : start + SEQUENCES], jnp.int32)


def _slice(config: ModelConfig, params: Any, layer: Layer, number: int) -> Any:
    """The parameters of one layer."""
    blocks, structure = params["blocks"], layer.structure
    stack = blocks if len(config.stacks) == 1 else blocks[structure]
    place = [x.structure for x in config.layers_of_depth[:number]].count(structure)
    return _at(stack, place)


@jax.jit
def _at(stack: Any, place: jax.Array) -> Any:
    """One layer of a stack; as one program, which eager indexing has for every shape."""
    return jax.tree.map(lambda leaf: leaf[place], stack)


def _added(batches: list[dict[str, tuple]]) -> dict[str, tuple[np.ndarray, int]]:
    """Sums over batches, in float64."""
    return {
        name: (
            np.sum([np.asarray(seen[name][0], np.float64) for seen in batches], axis=0),
            sum(int(seen[name][1]) for seen in batches),
        )
        for name in batches[0]
    }


def _apply(config: ModelConfig, layer: Layer, block: Any, x_BTD: jax.Array) -> jax.Array:
    module = Block(config, layer, parent=None)
    (x_BTD, _), _ = module.apply({"params": block}, x_BTD, TokenInfo(), None, mutable=True)
    return x_BTD


_after = jax.jit(_apply, static_argnums=(0, 1))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _moments(
    config: ModelConfig, layer: Layer, watched: tuple[str, ...], block: Any, x_BTD: jax.Array
) -> dict[str, tuple[jax.Array, int]]:
    """(Σ x·xᵀ, tokens) of the inputs of each watched matrix of one layer."""
    seen: dict[str, tuple[jax.Array, int]] = {}

    def watch(name: str, inputs: int, lead: int, x: jax.Array) -> None:
        x_MI = x.reshape(-1, int(np.prod(x.shape[x.ndim - inputs :]))).astype(jnp.float32)
        moment, tokens = x_MI.T @ x_MI, x_MI.shape[0]
        if name in seen:
            moment, tokens = moment + seen[name][0], tokens + seen[name][1]
        seen[name] = moment, tokens

    for name in watched:
        block = inside(block, name, Watched(inside(block, name), name, watch))
    _apply(config, layer, block, x_BTD)
    return seen
