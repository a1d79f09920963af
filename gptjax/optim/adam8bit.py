"""8-bit Adam: both moments are stored in one byte each (Dettmers et al. 2022, arXiv:2110.02861)."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gptjax.ops.quantization import BLOCK, dequantize_blocks, quantize_blocks, zero_code
from gptjax.optim.path_rules import map_paths, matches

Params = Any

SMALLEST = 4096
"""Parameters with fewer elements keep float32 moments, as in bitsandbytes: they are a small share
of the memory and a large one of the damage."""


class Moment(NamedTuple):
    """A moment in 8 bits.

    Attributes:
      codes: uint8, in the shape of the parameter, so that it is sharded as the parameter is.
      absmax: largest magnitude of each block of 256 elements, float32, [blocks]; [layers, blocks]
        where the parameter has three or more axes, the first of which counts layers.
    """

    codes: Array
    absmax: Array


class Adam8bitState(NamedTuple):
    """Steps done, and both moments: each an array, or a `Moment` where it is quantized."""

    steps: Array
    first: Params
    second: Params


def scale_by_adam_8bit(
    *, b1: float, b2: float, eps: float, full_precision: Sequence[str], stochastic: bool
) -> optax.GradientTransformation:
    """`optax.scale_by_adam` with moments of one byte an element and four a block.

    A step reads a moment as float32, updates it, takes the parameter's update from the float32
    numbers, and rounds the moments at the end. Layers are worked on one after another, so that
    only the moments of one matrix of one layer are float32 at any time.

    Args:
      full_precision: expressions over paths of parameters whose moments stay float32.
      stochastic: round at random, keeping the mean, by a key made of the step and the parameter.
    """

    def init(params: Params) -> Adam8bitState:
        def zeros(path: str, param: Array) -> Any:
            small = param.size < SMALLEST or matches(full_precision, path)
            return jnp.zeros(param.shape, jnp.float32) if small else _zero_moment(param)

        first, second = map_paths(zeros, params), map_paths(zeros, params)
        return Adam8bitState(jnp.zeros((), jnp.int32), first, second)

    def update(
        grads: Params, state: Adam8bitState, params: Params = None
    ) -> tuple[Params, Adam8bitState]:
        del params
        count = optax.safe_increment(state.steps)
        correct = (1.0 / (1.0 - b1**count), 1.0 / (1.0 - b2**count))

        def adam(grad: Array, first: Array, second: Array) -> tuple[Array, Array, Array]:
            first = b1 * first + (1.0 - b1) * grad
            second = b2 * second + (1.0 - b2) * jnp.square(grad)
            step = first * correct[0] / (jnp.sqrt(second * correct[1]) + eps)
            return step, first, second

        tree: Any
        leaves, tree = jax.tree.flatten(grads)
        firsts = tree.flatten_up_to(state.first)
        seconds = tree.flatten_up_to(state.second)
        results: list[tuple] = []
        for i, (grad, first, second) in enumerate(zip(leaves, firsts, seconds, strict=True)):
            if not isinstance(first, Moment):
                results.append(adam(grad, first, second))
                continue
            key = jax.random.fold_in(jax.random.key(i), count) if stochastic else None
            results.append(_quantized(adam, grad, first, second, key))
        steps, firsts, seconds = (tree.unflatten(column) for column in zip(*results, strict=True))
        return steps, Adam8bitState(count, firsts, seconds)

    return optax.GradientTransformation(init, update)


def _zero_moment(param: Array) -> Moment:
    slices, size = (param.shape[0], param[0].size) if param.ndim > 2 else (1, param.size)
    absmax = jnp.zeros((slices, -(-size // BLOCK)), jnp.float32)
    codes = jnp.zeros(param.shape, jnp.uint8)
    return Moment(codes, absmax if param.ndim > 2 else absmax[0])


def _quantized(
    adam: Any, grad: Array, first: Moment, second: Moment, key: Array | None
) -> tuple[Array, Moment, Moment]:
    """`adam` on quantized moments, one layer after another where there are layers.

    The loop writes each layer's results over its inputs, the update over the gradient, so that
    nothing is held twice.
    """

    def one(
        grad: Array, first: Moment, second: Moment, key: Array | None
    ) -> tuple[Array, Moment, Moment]:
        keys = (None, None) if key is None else jax.random.split(key)
        step, m, v = adam(_blocks(grad), _read(first, True), _read(second, False))
        shape = grad.shape
        return (
            _unblocks(step, shape),
            _write(m, True, shape, keys[0]),
            _write(v, False, shape, keys[1]),
        )

    def layer(i: Array, all_: tuple) -> tuple:
        grad, first, second = jax.tree.map(
            lambda x: jax.lax.dynamic_index_in_dim(x, i, keepdims=False), all_
        )
        results = one(grad, first, second, None if key is None else jax.random.fold_in(key, i))
        return jax.tree.map(
            lambda x, new: jax.lax.dynamic_update_index_in_dim(x, new, i, 0), all_, results
        )

    if grad.ndim <= 2:
        return one(grad, first, second, key)
    return jax.lax.fori_loop(0, grad.shape[0], layer, (grad, first, second))


def _read(moment: Moment, signed: bool) -> Array:
    codes = _blocks(moment.codes, fill=zero_code(signed))
    return dequantize_blocks(codes, moment.absmax, signed=signed)


def _write(x: Array, signed: bool, shape: tuple[int, ...], key: Array | None) -> Moment:
    codes, absmax = quantize_blocks(x, signed=signed, key=key)
    return Moment(_unblocks(codes, shape), absmax)


def _blocks(x: Array, fill: int = 0) -> Array:
    """As [blocks, 256], the last block filled up."""
    flat = x.reshape(-1)
    return jnp.pad(flat, (0, -flat.size % BLOCK), constant_values=fill).reshape(-1, BLOCK)


def _unblocks(x: Array, shape: tuple[int, ...]) -> Array:
    return x.reshape(-1)[: math.prod(shape)].reshape(shape)
