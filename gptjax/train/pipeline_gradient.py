"""Gradient of a batch under pipeline parallelism: each stage of the mesh holds some layers."""

from typing import Any

import flax.linen as nn
import jax
from jax import Array

from gptjax.parallel import Layout, pipeline
from gptjax.train.feed import Batch

Params = Any


def gradient(
    model: pipeline.Model,
    layout: Layout,
    params: Params,
    batch: Batch,
    micro_batches: int,
    weight: Array,
) -> tuple[Array, Params]:
    """`weight` times the sum of a batch's loss, and the gradient of that.

    The micro-batches go through the stages of the layout's mesh by its schedule.

    Args:
      model: the objective in parts.
      batch: its tokens in the layout's order.
    """
    rest = {name: leaf for name, leaf in params.items() if name != "blocks"}
    total, d_rest, d_layers = pipeline.gradient(
        model,
        layout.schedule(micro_batches),
        layout.mesh,
        rest,
        params["blocks"],
        jax.tree.map(lambda x: _split(x, micro_batches), batch),
    )
    grads = {**d_rest, "blocks": d_layers}
    return total * weight, jax.tree.map(lambda grad: grad * weight, grads)


def _split(x: Array, parts: int) -> Array:
    """[B, …] as [parts, B/parts, …], each part over all devices."""
    split = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    return nn.with_logical_constraint(split, (None, "batch", *("seq",) * (x.ndim - 1)))
