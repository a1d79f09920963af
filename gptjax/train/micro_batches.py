"""Micro-batches: a batch computed in parts, one after another, and the gradient summed.

On a CPU a part that fits the cache is faster, so sweeps cut every batch into parts of one size
(`sweep.part_tokens`). Then runs whose batches differ only in their number of parts share one
compiled program (`shared_program`): it has room for the most parts, and its loop goes over the
`Hyper.micro_batches` that are filled.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gptjax.optim import global_norm
from gptjax.train.config import RunSpec
from gptjax.train.feed import Batch, examples_at
from gptjax.train.state import Hyper

Params = Any


def split(x: Array, parts: int) -> Array:
    """[B, …] as [parts, B/parts, …], each part over all devices."""
    split = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    return nn.with_logical_constraint(split, (None, "batch", *(None,) * (x.ndim - 1)))


def summed_gradient(
    losses: Callable[[Params, Any], tuple[Array, Any]],
    params: Params,
    batch: Any,
    parts: int,
    *,
    count: Callable[[Any], Array] | None = None,
    filled: Array | None = None,
) -> tuple[Any, Params, Array]:
    """Sums over the micro-batches of a batch.

    Args:
      losses: (params, micro-batch) → (loss, report).
      parts: micro-batches of `batch`.
      count: of a micro-batch; where given, the squared norms of the gradients are wanted.
      filled: how many of the micro-batches are computed, all where it is None.

    Returns:
      The sum of the reports, that of the losses' gradients, and the mean of |gradient / count|²
      (zero without `count`).
    """
    value_and_gradient = jax.value_and_grad(losses, has_aux=True)
    if parts == 1:
        (_, report), grads = value_and_gradient(params, batch)
        return report, grads, jnp.zeros(())
    micro_batches = jax.tree.map(lambda x: split(x, parts), batch)

    def add(carry: tuple[Any, Params], micro: Any) -> tuple[tuple[Any, Params], Array]:
        (_, report), grads = value_and_gradient(params, micro)
        square = jnp.zeros(())
        if count is not None:
            counted = jnp.maximum(count(micro), 1.0)
            square = jnp.square(global_norm(grads) / counted)
        return jax.tree.map(jnp.add, carry, (report, grads)), square

    def of_one(params: Params, micro_batches: Any) -> Any:
        return losses(params, jax.tree.map(lambda x: x[0], micro_batches))[1]

    blank = jax.eval_shape(of_one, params, micro_batches)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (blank, params))
    if filled is not None:
        report, grads = jax.lax.fori_loop(
            0,
            filled,
            lambda i, sums: add(sums, jax.tree.map(lambda x: x[i], micro_batches))[0],
            zero,
        )
        return report, grads, jnp.zeros(())
    (report, grads), squares = jax.lax.scan(add, zero, micro_batches)
    return report, grads, jnp.mean(squares)


def can_share(spec: RunSpec) -> bool:
    """Whether runs may share a program though they have unequal numbers of micro-batches."""
    return not (
        spec.batch_doublings
        or spec.noise_scale
        or spec.model.experts.count
        or spec.model.dropout.is_on
    )


def shared_program(spec: RunSpec) -> RunSpec:
    """`spec.program`, with room for 2, 8, 32, … micro-batches of the same size where it can share.

    Specs that agree here share a compiled program on a CPU.
    """
    program = spec.program
    if not can_share(spec):
        return program
    room = 2
    while room < program.micro_batches:
        room *= 4
    size = program.batch_size // program.micro_batches
    return dataclasses.replace(program, batch_size=room * size, micro_batches=room)


def shared_examples(
    spec: RunSpec, hyper: Hyper, position: Array, count: int | tuple[int, ...]
) -> Array:
    """The examples of a step, those of `shared_program`'s unfilled micro-batches last.

    Part p of a step of k parts is step k·position + p of a run whose batch is one part.
    """
    room = spec.micro_batches
    steps = position * hyper.micro_batches + jnp.arange(room)
    each = jax.vmap(lambda step: examples_at(hyper, step, spec.batch_size // room, count))(steps)
    return each.reshape(-1)


def only_filled(spec: RunSpec, hyper: Hyper, batch: Batch) -> Batch:
    """The batch with the weights of the unfilled micro-batches set to 0."""
    room = spec.micro_batches
    filled = jnp.repeat(jnp.arange(room) < hyper.micro_batches, spec.batch_size // room)
    return dataclasses.replace(batch, weights_BT=batch.weights_BT * filled[:, None])
