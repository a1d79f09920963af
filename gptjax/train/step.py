"""The pure training step: (state, batch) -> (state, metrics)."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from gptjax import models, ops
from gptjax.optim import ascend, global_norm, learning_rate, make_optimizer, was_skipped
from gptjax.parallel import Layout
from gptjax.train import (
    batch_warmup,
    gradient_noise,
    loss_spikes,
    mixed_precision,
    pipeline_gradient,
    routers,
)
from gptjax.train.config import RunSpec
from gptjax.train.state import Hyper, TrainState, add_to_curve

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Token windows: `targets_BT[b, t]` follows `inputs_BT[b, t]`.

    `mask_BT` is 1 where the target is scored and 0 at padding and, if so configured, at
    end-of-document targets. `seeds_B` are those of the routers' noise, where there is any. `parts`
    is how many micro-batches are filled, all where it is None; the mask of the others is 0.
    """

    inputs_BT: Array
    targets_BT: Array
    mask_BT: Array
    seeds_B: Array | None = None
    parts: Array | None = None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """What one step reports: nats per token, norm of the gradient that the optimizer got, learning
    rate, and 1 where the step was left out because that gradient was not finite.

    `extra` holds what options add, under the names that logs show.
    """

    loss: Array
    grad_norm: Array
    learning_rate: Array
    skipped: Array
    extra: dict[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def zeros(cls, spec: RunSpec, steps: int) -> "Metrics":
        """Room for the metrics of so many steps."""
        room = jnp.zeros((steps,), jnp.float32)
        return cls(room, room, room, room, dict.fromkeys(extra_metrics(spec), room))


def extra_metrics(spec: RunSpec) -> tuple[str, ...]:
    """Names of the metrics that the options of a spec add."""
    names: tuple[str, ...] = ()
    if mixed_precision.scales_loss(spec):
        names += ("optim/loss_scale", "optim/overflows")
    if spec.noise_scale:
        names += ("optim/noise_trace", "optim/noise_square", "optim/noise_scale_tokens")
    if spec.rollbacks:
        names += (loss_spikes.METRIC,)
    return names + routers.metric_names(spec.model)


def make_batch(spec: RunSpec, inputs_BT: Array, targets_BT: Array, end_of_document: int) -> Batch:
    """Add the loss mask to a window."""
    inputs_BT, targets_BT = (
        nn.with_logical_constraint(x, ("batch", None)) for x in (inputs_BT, targets_BT)
    )
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
    """Masked negative log-likelihood of each target, nats, [B, T] float32, outside of training.

    In the layout's order where it has one. `shift_BTD` is added to the embedded tokens.
    """
    spec = dataclasses.replace(spec, model=spec.model.at_rest)
    return _losses(spec, params, batch, end_of_document, shift_BTD)[1]


def training_losses(
    spec: RunSpec,
    params: Params,
    batch: Batch,
    end_of_document: int,
    shift_BTD: Array | None = None,
) -> tuple[Array, Array, models.Routing | None]:
    """(what is minimised, plain nats), both summed over the scored tokens; what the routers did.

    The sums differ by z-loss and label smoothing, and only the first has a derivative. What routers
    are trained on besides is `models.router_penalty` of the last.
    """
    trained, nats_BT, routed = _losses(spec, params, batch, end_of_document, shift_BTD)
    return jnp.sum(trained), jnp.sum(nats_BT), routed


def _losses(
    spec: RunSpec, params: Params, batch: Batch, end_of_document: int, shift_BTD: Array | None
) -> tuple[Array, Array, models.Routing | None]:
    """(what is minimised, by token or summed already; plain nats by token; what routers did)."""
    segments_BT = segments(spec, batch.inputs_BT, end_of_document)
    batch = ordered(batch)
    found, routed = models.forward(
        spec.model,
        params,
        batch.inputs_BT,
        segment_ids_BT=segments_BT,
        shift_BTD=shift_BTD,
        seeds_B=batch.seeds_B,
        features=spec.loss_chunk > 0,
    )
    if spec.loss_chunk:
        x_BTD, w_DV = found
        head = ops.Head(
            logit_scale=spec.model.logit_scale,
            logit_soft_cap=spec.model.logit_soft_cap,
            z_loss=spec.z_loss,
            label_smoothing=spec.label_smoothing,
        )
        both = ops.chunked_cross_entropy(
            x_BTD, w_DV, batch.targets_BT, batch.mask_BT, chunk=spec.loss_chunk, head=head
        )
    else:
        both = ops.penalised_cross_entropy(
            found,
            batch.targets_BT,
            batch.mask_BT,
            z_loss=spec.z_loss,
            label_smoothing=spec.label_smoothing,
        )
    return *both, routed


def segments(spec: RunSpec, inputs_BT: Array, end_of_document: int) -> Array | None:
    """Document numbers, in the order of `in_order`, where attention stays within documents."""
    if not spec.document_attention:
        return None
    return in_order(jnp.cumsum(inputs_BT == end_of_document, axis=1))


def ordered(batch: Batch) -> Batch:
    """A batch with its tokens in the order of `in_order`."""
    names = ("inputs_BT", "targets_BT", "mask_BT")
    return dataclasses.replace(batch, **{name: in_order(getattr(batch, name)) for name in names})


def in_order(x_BT: Array) -> Array:
    """An array of tokens as the layout over devices cuts it, and in its order."""
    return nn.with_logical_constraint(ops.in_order(x_BT, axis=1), ("batch", "seq"))


def adversarial_shift(spec: RunSpec, params: Params, batch: Batch, end_of_document: int) -> Array:
    """δ_BTD = ε·g/‖g‖ with g the gradient of a sequence's loss by its embeddings.

    One step of ascent from zero inside max L(x + δ) over ‖δ‖ ≤ ε, each sequence on its own (Miyato
    et al. 2017, arXiv:1605.07725, equation 8). The shift counts as a constant afterwards: at the
    maximum its own derivative does not matter (Danskin).
    """
    params = jax.lax.stop_gradient(params)

    def loss_of(shift_BTD: Array) -> Array:
        return training_losses(spec, params, batch, end_of_document, shift_BTD)[0]

    g_BTD = jax.grad(loss_of)(jnp.zeros((*batch.inputs_BT.shape, spec.model.width)))
    norm_B11 = jnp.sqrt(jnp.sum(jnp.square(g_BTD), axis=(1, 2), keepdims=True))
    return spec.optim.adversarial_epsilon * g_BTD / (norm_B11 + 1e-12)


def make_train_step(
    spec: RunSpec, end_of_document: int, layout: Layout | None = None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]:
    """The training step of a spec; jit is applied from outside, and `layout` where arrays live.

    The loss is the sum over scored tokens divided by their number in the whole batch, so that k
    micro-batches give the gradient of one batch also when they hold unequal numbers of them.

    While the batch is still growing a step goes through its batch in several updates, so that
    step and tokens stay in proportion, and whatever is a function of the step with them.
    """
    stages = [
        _updates(stage, spec.batch_size // stage.batch_size, end_of_document, layout)
        for stage in batch_warmup.stages(spec)
    ]
    ends = batch_warmup.ends(spec)

    def train_step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        if spec.model.router_noise:
            seeds_B = routers.noise_seeds(hyper.seed, state.step, spec.batch_size)
            batch = dataclasses.replace(batch, seeds_B=seeds_B)
        if len(stages) == 1:
            state, metrics = stages[0](state, batch, hyper)
        else:
            stage = jnp.sum(state.step >= jnp.asarray(ends, jnp.int32))
            state, metrics = jax.lax.switch(stage, stages, state, batch, hyper)
        curve = add_to_curve(state.curve, state.step, metrics.loss)
        extra = state.extra
        if spec.rollbacks:
            known, bad = loss_spikes.observe(spec, extra["spikes"], metrics.loss, metrics.skipped)
            extra = {**extra, "spikes": known}
            metrics = dataclasses.replace(metrics, extra={**metrics.extra, loss_spikes.METRIC: bad})
        return dataclasses.replace(state, step=state.step + 1, curve=curve, extra=extra), metrics

    return train_step


def _updates(
    spec: RunSpec, count: int, end_of_document: int, layout: Layout | None
) -> Callable[[TrainState, Batch, Hyper], tuple[TrainState, Metrics]]:
    """The updates of one step; `spec` has the batch size of one of them. The step stays."""
    update = _make_update(spec, end_of_document, layout)
    if count == 1:
        return lambda state, batch, hyper: update(state, batch, hyper, None)

    def updates(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, part: tuple[Array, Batch]) -> tuple[TrainState, Metrics]:
            return update(state, part[1], hyper, (part[0], count))

        parts = jax.tree.map(lambda x: split_batch(x, count), batch)
        state, each = jax.lax.scan(one, state, (jnp.arange(count), parts))
        mean = jax.tree.map(jnp.mean, each)
        last = jax.tree.map(lambda x: x[-1], each)
        return state, dataclasses.replace(
            mean, learning_rate=last.learning_rate, skipped=jnp.max(each.skipped), extra=last.extra
        )

    return updates


def split_batch(x: Array, parts: int) -> Array:
    """[B, …] as [parts, B/parts, …], each part over all devices."""
    split = x.reshape(parts, x.shape[0] // parts, *x.shape[1:])
    return nn.with_logical_constraint(split, (None, "batch", *(None,) * (x.ndim - 1)))


_Report = tuple[Array, models.Routing | None]
"""Mean nats of a batch, and what its routers did."""

Gradient = Callable[
    [Params, Batch, mixed_precision.LossScale | None], tuple[_Report, Params, Array]
]


def _make_gradient(spec: RunSpec, end_of_document: int, layout: Layout | None) -> Gradient:
    """(parameters, batch, scale of the loss) -> (loss and routing, the gradient, mean squared norm
    of the micro-batches' gradients)."""
    estimates = spec.noise_scale and spec.micro_batches > 1

    def losses(params: Params, batch: Batch) -> tuple[Array, Array, models.Routing | None]:
        shift_BTD = None
        if spec.optim.adversarial_epsilon > 0.0:
            shift_BTD = adversarial_shift(spec, params, batch, end_of_document)
        return training_losses(spec, params, batch, end_of_document, shift_BTD)

    def gradient(
        params: Params, batch: Batch, scale: mixed_precision.LossScale | None
    ) -> tuple[_Report, Params, Array]:
        share = 1.0 / jnp.maximum(jnp.sum(batch.mask_BT), 1.0)
        # The factor goes in with the loss: on the gradient it would be a pass over all parameters,
        # and float16 has to be scaled before the first narrow number.
        weight = share if scale is None else scale.value * share

        if layout is not None and layout.stages > 1:
            segments_BT = segments(spec, batch.inputs_BT, end_of_document)
            loss, grads = pipeline_gradient.gradient(
                spec, layout, params, ordered(batch), segments_BT, weight
            )
            return (loss, None), grads, jnp.zeros(())

        def weigh(params: Params, batch: Batch) -> tuple[Array, _Report]:
            trained, nats, routed = losses(params, batch)
            routed = jax.tree.map(lambda mean: mean / spec.micro_batches, routed)
            penalty = models.router_penalty(spec.model, routed)
            if scale is not None:
                penalty = scale.value * penalty
            return weight * trained + penalty, (share * nats, routed)

        report, grads, squares = _summed_gradient(
            weigh, params, batch, spec.micro_batches, norms=estimates
        )
        if scale is not None:
            grads = jax.tree.map(lambda grad: grad * (1.0 / scale.value), grads)
        return report, grads, squares / jnp.square(weight)

    return gradient


def _make_update(
    spec: RunSpec, end_of_document: int, layout: Layout | None
) -> Callable[[TrainState, Batch, Hyper, tuple[Array, int] | None], tuple[TrainState, Metrics]]:
    """One update of parameters and optimizer; the last argument is (number of the part, parts)
    where a step has several."""
    optimizer = make_optimizer(spec.optim)
    gradient = _make_gradient(spec, end_of_document, layout)

    def update(
        state: TrainState, batch: Batch, hyper: Hyper, part: tuple[Array, int] | None
    ) -> tuple[TrainState, Metrics]:
        scale = state.extra.get("loss_scale")
        wide = mixed_precision.widen(spec, state.params)
        (loss, routed), grads, squares = gradient(wide, batch, scale)
        extra, log = _noise(spec, state.extra, squares, grads)
        log |= routers.metrics(spec.model, routed)
        if spec.optim.sam_rho > 0.0:
            grads = gradient(ascend(spec.optim, wide, grads), batch, scale)[1]
        if layout is not None:
            grads = layout.constrain_gradients(grads)
        step = state.step if part is None else state.step + (part[0] + 1.0) / part[1] - 1.0
        rate = learning_rate(spec.optim, step, hyper.total, hyper.peak, hyper.warmup)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, wide, learning_rate=rate, weight_decay=hyper.decay
        )
        key = mixed_precision.rounding_key(
            hyper.seed, state.step, None if part is None else part[0]
        )
        params = mixed_precision.narrow(spec, optax.apply_updates(wide, updates), key)
        skipped = was_skipped(spec.optim, opt_state).astype(jnp.float32)
        if scale is not None:
            (params, opt_state), overflowed, scale = mixed_precision.guard(
                spec, scale, grads, loss, (params, opt_state), (state.params, state.opt_state)
            )
            skipped = jnp.maximum(skipped, overflowed)
            extra = {**extra, "loss_scale": scale}
            log["optim/loss_scale"] = scale.value
            log["optim/overflows"] = scale.skips.astype(jnp.float32)
        new_state = TrainState(params, opt_state, state.step, state.curve, extra)
        return new_state, Metrics(loss, global_norm(grads), rate, skipped, log)

    return update


def _noise(
    spec: RunSpec, extra: dict[str, Any], squares: Array, grads: Params
) -> tuple[dict[str, Any], dict[str, Array]]:
    """The state of options and the metrics, with one more estimate of the noise scale."""
    if not (spec.noise_scale and spec.micro_batches > 1):
        return extra, {}
    big, size = jnp.square(global_norm(grads)), spec.batch_size
    new = gradient_noise.estimate(squares, big, size / spec.micro_batches, size)
    past = gradient_noise.remember(extra["noise"], new)
    metrics = {
        "optim/noise_trace": new.trace,
        "optim/noise_square": new.square,
        "optim/noise_scale_tokens": past.sequences * spec.model.seq_len,
    }
    return {**extra, "noise": past}, metrics


def _summed_gradient(
    losses: Callable[[Params, Batch], tuple[Array, _Report]],
    params: Params,
    batch: Batch,
    parts: int,
    *,
    norms: bool,
) -> tuple[_Report, Params, Array]:
    """Sums over `parts` micro-batches of what is reported and of the loss's gradient.

    With `norms` also the mean over the micro-batches of |gradient / scored tokens|²; else zero.
    """
    value_and_gradient = jax.value_and_grad(losses, has_aux=True)
    filled, batch = batch.parts, dataclasses.replace(batch, parts=None)
    if parts == 1:
        (_, report), grads = value_and_gradient(params, batch)
        return report, grads, jnp.zeros(())
    split = jax.tree.map(lambda x: split_batch(x, parts), batch)

    def add(carry: tuple[_Report, Params], micro: Batch) -> tuple[tuple[_Report, Params], Array]:
        (_, report), grads = value_and_gradient(params, micro)
        square = jnp.zeros(())
        if norms:
            tokens = jnp.maximum(jnp.sum(micro.mask_BT), 1.0)
            square = jnp.square(global_norm(grads) / tokens)
        return jax.tree.map(jnp.add, carry, (report, grads)), square

    def of_one(params: Params, split: Batch) -> _Report:
        return losses(params, jax.tree.map(lambda x: x[0], split))[1]

    blank = jax.eval_shape(of_one, params, split)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (blank, params))
    if filled is not None:
        report, grads = jax.lax.fori_loop(
            0, filled, lambda i, sums: add(sums, jax.tree.map(lambda x: x[i], split))[0], zero
        )
        return report, grads, jnp.zeros(())
    (report, grads), squares = jax.lax.scan(add, zero, split)
    return report, grads, jnp.mean(squares)
