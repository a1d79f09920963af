"""The pure training step: (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gptjax import models, ops
from gptjax.optim import ascend, global_norm, learning_rate, make_optimizer, was_skipped
from gptjax.train.config import RunSpec
from gptjax.train.state import Hyper, TrainState, add_to_curve

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
    """What one step reports: nats per token, norm of the gradient that the optimizer got, learning
    rate, and 1 where the step was left out because that gradient was not finite."""

    loss: Array
    grad_norm: Array
    learning_rate: Array
    skipped: Array

    @classmethod
    def zeros(cls, steps: int) -> "Metrics":
        """Room for the metrics of so many steps."""
        return cls(*(jnp.zeros((steps,), jnp.float32) for _ in dataclasses.fields(cls)))


def make_batch(spec: RunSpec, inputs_BT: Array, targets_BT: Array, end_of_document: int) -> Batch:
    """Add the loss mask to a window."""
    if spec.mask_end_of_document:
        mask_BT = (targets_BT != end_of_document).astype(jnp.float32)
    else:
        mask_BT = jnp.ones(targets_BT.shape, jnp.float32)
    return Batch(inputs_BT, targets_BT, mask_BT)


def token_losses(
    spec: RunSpec,
    params: Params,
    batch: Batch,
    end_of_document: int,
    shift_BTD: Array | None = None,
) -> Array:
    """Masked negative log-likelihood of each target, nats, [B, T] float32.

    `shift_BTD` is added to the embedded tokens.
    """
    segments_BT = None
    if spec.document_attention:
        segments_BT = jnp.cumsum(batch.inputs_BT == end_of_document, axis=1)
    logits_BTV = models.apply(
        spec.model, params, batch.inputs_BT, segment_ids_BT=segments_BT, shift_BTD=shift_BTD
    )
    return ops.cross_entropy(logits_BTV, batch.targets_BT, batch.mask_BT)


def adversarial_shift(spec: RunSpec, params: Params, batch: Batch, end_of_document: int) -> Array:
    """δ_BTD = ε·g/‖g‖ with g the gradient of a sequence's loss by its embeddings.

    One step of ascent from zero inside max L(x + δ) over ‖δ‖ ≤ ε, each sequence on its own (Miyato
    et al. 2017, arXiv:1605.07725, equation 8). The shift counts as a constant afterwards: at the
    maximum its own derivative does not matter (Danskin).
    """
    params = jax.lax.stop_gradient(params)

    def loss_of(shift_BTD: Array) -> Array:
        return jnp.sum(token_losses(spec, params, batch, end_of_document, shift_BTD))

    g_BTD = jax.grad(loss_of)(jnp.zeros((*batch.inputs_BT.shape, spec.model.width)))
    norm_B11 = jnp.sqrt(jnp.sum(jnp.square(g_BTD), axis=(1, 2), keepdims=True))
    return spec.optim.adversarial_epsilon * g_BTD / (norm_B11 + 1e-12)


def make_train_step(
    spec: RunSpec, end_of_document: int
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]:
    """The training step of a spec; jit and sharding are applied from outside.

    The loss is the sum over scored tokens divided by their number in the whole batch, so that k
    micro-batches give the gradient of one batch also when they hold unequal numbers of them.
    """
    optimizer = make_optimizer(spec.optim)

    def loss_sum(params: Params, batch: Batch) -> Array:
        shift_BTD = None
        if spec.optim.adversarial_epsilon > 0.0:
            shift_BTD = adversarial_shift(spec, params, batch, end_of_document)
        return jnp.sum(token_losses(spec, params, batch, end_of_document, shift_BTD))

    def gradient(params: Params, batch: Batch) -> tuple[Array, Params]:
        scale = 1.0 / jnp.maximum(jnp.sum(batch.mask_BT), 1.0)
        # The factor goes in with the loss: on the gradient it would be a pass over all parameters.
        mean = lambda params, micro: scale * loss_sum(params, micro)  # noqa: E731
        return _summed_gradient(mean, params, batch, spec.micro_batches)

    def train_step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        loss, grads = gradient(state.params, batch)
        if spec.optim.sam_rho > 0.0:
            grads = gradient(ascend(spec.optim, state.params, grads), batch)[1]
        rate = learning_rate(spec.optim, state.step, hyper.total, hyper.peak)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, state.params, learning_rate=rate
        )
        params = optax.apply_updates(state.params, updates)
        curve = add_to_curve(state.curve, state.step, loss)
        new_state = TrainState(params, opt_state, state.step + 1, curve)
        skipped = was_skipped(spec.optim, opt_state).astype(jnp.float32)
        return new_state, Metrics(loss, global_norm(grads), rate, skipped)

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
