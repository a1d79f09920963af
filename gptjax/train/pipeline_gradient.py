"""Gradient of a batch under pipeline parallelism: each stage of the mesh holds some layers."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from gptjax.models import Stages
from gptjax.parallel import Layout, pipeline
from gptjax.train.config import RunSpec

Params = Any


def gradient(
    spec: RunSpec, layout: Layout, params: Params, batch: Any, segments_BT: Any, weight: Array
) -> tuple[Array, Params]:
    """`weight` times the sum of a Batch's loss, nats, and the gradient of that.

    The micro-batches of the spec go through the stages of the layout's mesh by its schedule.

    Args:
      batch: a Batch, its tokens in the layout's order.
      segments_BT: document numbers in the same order, where attention stays within documents.
    """
    pieces = Stages(spec.model)

    def embed(rest: Params, micro: Any) -> Array:
        return pieces.embed(rest, micro[0].inputs_BT)

    def blocks(layers: Params, x_BTD: Array, micro: Any) -> Array:
        return pieces.blocks(layers, x_BTD, micro[1])[0]

    def loss(rest: Params, x_BTD: Array, micro: Any) -> Array:
        nats_BT = _cross_entropy(pieces.logits(rest, x_BTD), micro[0].targets_BT)
        return jnp.sum(nats_BT * micro[0].mask_BT)

    rest = {name: leaf for name, leaf in params.items() if name != "blocks"}
    total, d_rest, d_layers = pipeline.gradient(
        pipeline.Model(embed, blocks, loss),
        layout.schedule(spec.micro_batches),
        layout.mesh,
        rest,
        params["blocks"],
        jax.tree.map(lambda x: _micro_batches(x, spec.micro_batches), (batch, segments_BT)),
    )
    grads = {**d_rest, "blocks": d_layers}
    return total * weight, jax.tree.map(lambda grad: grad * weight, grads)


def _cross_entropy(logits_BTV: Array, targets_BT: Array) -> Array:
    """Nats by token. The target is picked by a comparison: XLA's partitioner fails on the gather of
    ops.cross_entropy inside a stage whose logits are cut by fsdp and tensor."""
    chosen_BTV = targets_BT[..., None] == jnp.arange(logits_BTV.shape[-1])
    picked_BT = jnp.sum(jnp.where(chosen_BTV, logits_BTV, 0.0), axis=-1)
    return jax.nn.logsumexp(logits_BTV, axis=-1) - picked_BT


def _micro_batches(x: Array, parts: int) -> Array:
    """[B, …] as [parts, B/parts, …], each part over all devices."""
    split = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    return nn.with_logical_constraint(split, (None, "batch", *("seq",) * (x.ndim - 1)))
