"""The pure training step: (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gptjax import models, ops
from gptjax.optim import learning_rate, make_optimizer
from gptjax.train.config import RunSpec
from gptjax.train.state import Hyper, TrainState

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Token windows: `targets_BT[b, t]` follows `inputs_BT[b, t]`.

    `mask_BT` is 1 where the target is scored and 0 at padding and, if so configured, at
    end-of-document targets.
    """

    inputs_BT: Array
    targets_BT: Array
    mask_BT: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What one step reports: nats per token, global gradient norm, learning rate."""

    loss: Array
    grad_norm: Array
    learning_rate: Array


def make_batch(
    spec: RunSpec, inputs_BT: Array, targets_BT: Array, end_of_document: int
) -> Batch:
    """Add the loss mask to a window."""
    if spec.mask_end_of_document:
        mask_BT = (targets_BT != end_of_document).astype(jnp.float32)
    else:
        mask_BT = jnp.ones(targets_BT.shape, jnp.float32)
    return Batch(inputs_BT, targets_BT, mask_BT)


def token_losses(spec: RunSpec, params: Params, batch: Batch, end_of_document: int) -> Array:
    """Masked negative log-likelihood of each target, nats, [B, T] float32."""
    segments_BT = None
    if spec.document_attention:
        segments_BT = jnp.cumsum(batch.inputs_BT == end_of_document, axis=1)
    logits_BTV = models.apply(spec.model, params, batch.inputs_BT, segment_ids_BT=segments_BT)
    return ops.cross_entropy(logits_BTV, batch.targets_BT, batch.mask_BT)


def make_train_step(
    spec: RunSpec, end_of_document: int
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]:
    """The training step of a spec; jit and sharding are applied from outside.

    The loss is the sum over scored tokens divided by their number in the whole batch, so that k
    micro-batches give the gradient of one batch also when they hold unequal numbers of them.
    """
    optimizer = make_optimizer(spec.optim)

    def loss_sum(params: Params, batch: Batch) -> Array:
        return jnp.sum(token_losses(spec, params, batch, end_of_document))

    def train_step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        total, grads = _summed_gradient(loss_sum, state.params, batch, spec.micro_batches)
        scale = 1.0 / jnp.maximum(jnp.sum(batch.mask_BT), 1.0)
        loss = total * scale
        grads = jax.tree.map(lambda grad: grad * scale, grads)
        rate = learning_rate(spec.optim, state.step, hyper.total, hyper.peak)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - rate * u, state.params, updates)
        slot = jnp.searchsorted(hyper.curve_ends, state.step, side="right")
        new_state = TrainState(params, opt_state, state.step + 1, state.curve.at[slot].add(loss))
        return new_state, Metrics(loss, optax.tree.norm(grads), rate)

    return train_step


def _summed_gradient(
    loss_sum: Callable[[Params, Batch], Array], params: Params, batch: Batch, parts: int
) -> tuple[Array, Params]:
    """Sum of the loss and its gradient over the batch, computed in `parts` micro-batches."""
    if parts == 1:
        return jax.value_and_grad(loss_sum)(params, batch)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), batch)

    def add(carry: tuple[Array, Params], micro: Batch) -> tuple[tuple[Array, Params], None]:
        value = jax.value_and_grad(loss_sum)(params, micro)
        return jax.tree.map(jnp.add, carry, value), None

    zero = (jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
    return jax.lax.scan(add, zero, split)[0]
