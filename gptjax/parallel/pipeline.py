"""Pipeline execution: one program over the `pipe` axis, each stage doing its row of the schedule.

A stage keeps the inputs of the micro-batches that are under way and computes its layers again in
their backward pass, so the schedule alone decides how much is kept. The other axes of the mesh
stay with the compiler: inside, arrays are cut over data, fsdp and tensor as everywhere else.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.sharding import PartitionSpec as P

from gptjax.parallel.schedules import COLUMNS, Schedule, make_program

Params = Any


@dataclasses.dataclass(frozen=True)
class Model:
    """A model as pipeline stages: pure functions of parameters and one micro-batch.

    Attributes:
      embed: (rest, micro-batch) → x, the input of the first layer.
      blocks: (part of the stacked layers, x, micro-batch) → x after these layers.
      loss: (rest, x after the last layer, micro-batch) → sum of the loss, a scalar.
    """

    embed: Callable[[Params, Any], Array]
    blocks: Callable[[Params, Array, Any], Array]
    loss: Callable[[Params, Array, Any], Array]


def gradient(
    model: Model, schedule: Schedule, mesh: Any, rest: Params, layers: Params, batches: Any
) -> tuple[Array, Params, Params]:
    """Sum of the loss over all micro-batches, and its gradients by `rest` and by `layers`.

    Args:
      rest: parameters outside the layers, the same on every stage.
      layers: parameters whose leading axis counts layers, cut over `pipe` along it.
      batches: pytree whose leaves have a leading axis of `schedule.micro_batches`.
    """
    program = make_program(schedule)
    stages = schedule.stages
    example = jax.tree.map(lambda leaf: leaf[0], batches)
    x = jax.eval_shape(model.embed, rest, example)

    def all_ticks(table: Array, rest: Params, layers: Params, batches: Any) -> tuple:
        chunks = jax.tree.map(lambda w: w.reshape(schedule.chunks, -1, *w.shape[1:]), layers)
        tick = _make_tick(model, stages, rest, chunks, batches)
        blank = jnp.zeros(x.shape, x.dtype)
        start = (
            jnp.zeros((program.x_slots, *x.shape), x.dtype),
            jnp.zeros((program.g_slots, *x.shape), x.dtype),
            (blank, blank),
            (jnp.zeros(()), jax.tree.map(jnp.zeros_like, (rest, chunks))),
        )
        (_, _, _, (loss, grads)), _ = lax.scan(tick, start, table[:, 0])
        d_layers = jax.tree.map(lambda d, w: d.reshape(w.shape), grads[1], layers)
        return lax.psum(loss, "pipe"), lax.psum(grads[0], "pipe"), d_layers

    cut = jax.shard_map(
        all_ticks,
        mesh=mesh,
        in_specs=(P(None, "pipe"), P(), P("pipe"), P()),
        out_specs=(P(), P(), P("pipe")),
        axis_names={"pipe"},
        check_vma=False,
    )
    turned = jax.tree.map(lambda w: _by_stage(w, stages, schedule.chunks), layers)
    loss, d_rest, d_turned = cut(jnp.asarray(program.table), rest, turned, batches)
    return loss, d_rest, jax.tree.map(lambda d: _by_depth(d, stages, schedule.chunks), d_turned)


def _make_tick(
    model: Model, stages: int, rest: Params, chunks: Params, batches: Any
) -> Callable[[tuple, Array], tuple[tuple, None]]:
    """One tick of one stage: take what arrived, work, send."""

    def tick(carry: tuple, row: Array) -> tuple[tuple, None]:
        xs, gs, (x_sent, g_sent), sums = carry
        do = dict(zip(COLUMNS, row, strict=True))
        xs, gs = _arrive(xs, do["x_arrives"], x_sent), _arrive(gs, do["g_arrives"], g_sent)
        x, g = xs[do["x_slot"]], gs[do["g_slot"]]
        batch = jax.tree.map(lambda leaf: leaf[do["micro"]], batches)
        part = jax.tree.map(lambda w: w[do["chunk"]], chunks)
        blank = jnp.zeros_like(x)

        def entering(rest: Params, x: Array) -> Array:
            return lax.cond(do["first"] > 0, lambda: model.embed(rest, batch), lambda: x)

        def wait() -> tuple:
            return blank, blank, sums

        def forward() -> tuple:
            # The last part's output is only needed with its gradient: its backward pass makes it.
            y = lax.cond(
                do["last"] > 0, lambda: blank, lambda: model.blocks(part, entering(rest, x), batch)
            )
            return y, blank, sums

        def backward() -> tuple:
            def scalar(rest: Params, part: Params, x: Array) -> Array:
                y = model.blocks(part, entering(rest, x), batch)
                return lax.cond(
                    do["last"] > 0,
                    lambda: model.loss(rest, y, batch),
                    lambda: jnp.sum(y.astype(jnp.float32) * g.astype(jnp.float32)),
                )

            value, (d_rest, d_part, dx) = jax.value_and_grad(scalar, (0, 1, 2))(rest, part, x)
            loss, (rest_sum, chunk_sums) = sums
            loss = loss + jnp.where(do["last"] > 0, value, 0.0)
            chunk_sums = jax.tree.map(
                lambda total, d: total.at[do["chunk"]].add(d), chunk_sums, d_part
            )
            return blank, dx, (loss, (jax.tree.map(jnp.add, rest_sum, d_rest), chunk_sums))

        y, dx, sums = lax.switch(do["kind"], (wait, forward, backward))
        down = [(s, (s + 1) % stages) for s in range(stages)]
        up = [(s, (s - 1) % stages) for s in range(stages)]
        sent = lax.ppermute(y, "pipe", down), lax.ppermute(dx, "pipe", up)
        return (xs, gs, sent, sums), None

    return tick


def _arrive(slots: Array, slot: Array, sent: Array) -> Array:
    """`slots` with what was sent in its place, or unchanged where the slot is −1."""
    at = jnp.maximum(slot, 0)
    return slots.at[at].set(jnp.where(slot >= 0, sent, slots[at]))


def _by_stage(w: Array, stages: int, chunks: int) -> Array:
    """Layers in the order in which stages hold them: stage s has parts s, s + stages, …"""
    if chunks == 1:
        return w
    parts = w.reshape(chunks, stages, -1, *w.shape[1:])
    return jnp.swapaxes(parts, 0, 1).reshape(w.shape)


def _by_depth(w: Array, stages: int, chunks: int) -> Array:
    """The inverse of `_by_stage`."""
    if chunks == 1:
        return w
    parts = w.reshape(stages, chunks, -1, *w.shape[1:])
    return jnp.swapaxes(parts, 0, 1).reshape(w.shape)
