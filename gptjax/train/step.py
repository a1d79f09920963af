"""Training step: (state, batch) -> (state, metrics), pure, for any objective."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from gptjax.errors import UserError
from gptjax.optim import (
    ascend,
    global_norm,
    learning_rate,
    make_optimizer,
    merged,
    trainable,
    was_skipped,
)
from gptjax.parallel import Layout
from gptjax.train import (
    batch_warmup,
    gradient_noise,
    loss_spikes,
    micro_batches,
    mixed_precision,
    pipeline_gradient,
    routers,
)
from gptjax.train.config import RunSpec
from gptjax.train.objectives import Objective
from gptjax.train.state import Hyper, TrainState, add_to_curve

Params = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Metrics:
    """Metrics of one step.

    Attributes:
      loss: the objective's reported loss; nats per token where it is next-token prediction.
      grad_norm: norm of the gradient that the optimizer got.
      learning_rate: that of the update.
      skipped: 1 where the step was left out because its gradient was not finite.
      extra: those of options and of the objective, under the names that logs show.
    """

    loss: Array
    grad_norm: Array
    learning_rate: Array
    skipped: Array
    extra: dict[str, Array] = dataclasses.field(default_factory=dict)

    @classmethod
    def zeros(cls, spec: RunSpec, objective: Objective, steps: int) -> "Metrics":
        """Room for the metrics of so many steps."""
        room = jnp.zeros((steps,), jnp.float32)
        return cls(room, room, room, room, dict.fromkeys(extra_metrics(spec, objective), room))


def extra_metrics(spec: RunSpec, objective: Objective) -> tuple[str, ...]:
    """Names of the metrics that the options of a spec and the objective add."""
    names: tuple[str, ...] = ()
    if mixed_precision.scales_loss(spec):
        names += ("optim/loss_scale", "optim/overflows")
    if spec.noise_scale:
        names += ("optim/noise_trace", "optim/noise_square", "optim/noise_scale_tokens")
    if spec.rollbacks:
        names += (loss_spikes.METRIC,)
    return names + objective.names


Step = Callable[[TrainState, Any, Hyper], tuple[TrainState, Metrics]]


def make_train_step(
    spec: RunSpec, objective: Objective, layout: Layout | None = None, *, shared: bool = False
) -> Step:
    """The training step of a spec; jit is applied from outside.

    While the batch is still growing a step goes through its batch in several updates, so that
    step and tokens stay in proportion, and whatever is a function of the step with them.

    Args:
      objective: what is minimised; its batches are pytrees whose leaves have an axis of sequences.
      layout: where arrays live; None on one device.
      shared: the spec is a `micro_batches.shared_program`, and `Hyper.micro_batches` are filled.
    """
    stages = [
        _updates(stage, objective, layout, spec.batch_size // stage.batch_size, shared=shared)
        for stage in batch_warmup.stages(spec)
    ]
    ends = batch_warmup.ends(spec)

    def train_step(state: TrainState, batch: Any, hyper: Hyper) -> tuple[TrainState, Metrics]:
        seeds_B = None
        if objective.seeded:
            seeds_B = routers.noise_seeds(hyper.seed, state.step, spec.batch_size)
        if len(stages) == 1:
            state, metrics = stages[0](state, (batch, seeds_B), hyper)
        else:
            stage = jnp.sum(state.step >= jnp.asarray(ends, jnp.int32))
            state, metrics = jax.lax.switch(stage, stages, state, (batch, seeds_B), hyper)
        curve = add_to_curve(state.curve, state.step, metrics.loss)
        extra = state.extra
        if spec.rollbacks:
            known, bad = loss_spikes.observe(spec, extra["spikes"], metrics.loss, metrics.skipped)
            extra = {**extra, "spikes": known}
            metrics = dataclasses.replace(metrics, extra={**metrics.extra, loss_spikes.METRIC: bad})
        return dataclasses.replace(state, step=state.step + 1, curve=curve, extra=extra), metrics

    return train_step


_Seeded = tuple[Any, Array | None]
"""A batch and the seeds of its sequences."""


def _updates(
    spec: RunSpec, objective: Objective, layout: Layout | None, count: int, *, shared: bool
) -> Callable[[TrainState, _Seeded, Hyper], tuple[TrainState, Metrics]]:
    """The updates of one step; `spec` has the batch size of one of them. The step stays."""
    update = _make_update(spec, objective, layout, shared=shared)
    if count == 1:
        return lambda state, batch, hyper: update(state, batch, hyper, None)

    def updates(state: TrainState, batch: _Seeded, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def one(state: TrainState, part: tuple[Array, _Seeded]) -> tuple[TrainState, Metrics]:
            return update(state, part[1], hyper, (part[0], count))

        parts = jax.tree.map(lambda x: micro_batches.split(x, count), batch)
        state, each = jax.lax.scan(one, state, (jnp.arange(count), parts))
        mean = jax.tree.map(jnp.mean, each)
        last = jax.tree.map(lambda x: x[-1], each)
        return state, dataclasses.replace(
            mean, learning_rate=last.learning_rate, skipped=jnp.max(each.skipped), extra=last.extra
        )

    return updates


_Report = tuple[dict[str, Array], Any]
"""Sums of an objective over their count, and its means."""

Gradient = Callable[
    [Params, Params, _Seeded, mixed_precision.LossScale | None, Array | None],
    tuple[_Report, Params, Array],
]


def _make_gradient(spec: RunSpec, objective: Objective, layout: Layout | None) -> Gradient:
    """(trainable parameters, all parameters for the frozen ones, batch, scale of the loss, filled
    micro-batches) -> (report, the gradient, mean squared norm of the micro-batches' gradients)."""
    estimates = spec.noise_scale and spec.micro_batches > 1
    if layout is not None and layout.stages > 1:
        return _make_pipeline_gradient(spec, objective, layout)

    def gradient(
        params: Params,
        frozen: Params,
        batch: _Seeded,
        scale: mixed_precision.LossScale | None,
        filled: Array | None,
    ) -> tuple[_Report, Params, Array]:
        share = 1.0 / jnp.maximum(objective.count(batch[0]), 1.0)
        # The factor goes in with the loss: on the gradient it would be a pass over all parameters,
        # and float16 has to be scaled before the first half-precision number.
        weight = share if scale is None else scale.value * share

        def weigh(params: Params, batch: _Seeded) -> tuple[Array, _Report]:
            terms = objective.terms(merged(params, frozen), *batch)
            sums = {"loss": terms.sum, **terms.sums}
            means = jax.tree.map(lambda mean: mean / spec.micro_batches, terms.means)
            penalty = objective.penalty(means)
            if scale is not None:
                penalty = scale.value * penalty
            loss = weight * terms.sum + penalty
            return loss, (jax.tree.map(lambda one: share * one, sums), means)

        report, grads, squares = micro_batches.summed_gradient(
            weigh,
            params,
            batch,
            spec.micro_batches,
            count=(lambda micro: objective.count(micro[0])) if estimates else None,
            filled=filled,
        )
        if scale is not None:
            grads = jax.tree.map(lambda grad: grad * (1.0 / scale.value), grads)
        return report, grads, squares / jnp.square(weight)

    return gradient


def _make_pipeline_gradient(spec: RunSpec, objective: Objective, layout: Layout) -> Gradient:
    if objective.stages is None:
        raise UserError(
            "this objective is not computed on a pipeline's stages; set mesh.pipe=1, or give it "
            "`stages`"
        )
    model = objective.stages()

    def gradient(
        params: Params,
        frozen: Params,
        batch: _Seeded,
        scale: mixed_precision.LossScale | None,
        filled: Array | None,
    ) -> tuple[_Report, Params, Array]:
        del frozen, scale, filled
        share = 1.0 / jnp.maximum(objective.count(batch[0]), 1.0)
        loss, grads = pipeline_gradient.gradient(
            model, layout, params, batch[0].in_order(), spec.micro_batches, share
        )
        return ({"loss": loss}, None), grads, jnp.zeros(())

    return gradient


def _make_update(
    spec: RunSpec, objective: Objective, layout: Layout | None, *, shared: bool
) -> Callable[[TrainState, _Seeded, Hyper, tuple[Array, int] | None], tuple[TrainState, Metrics]]:
    """One update of parameters and optimizer; the last argument is (number of the part, parts)
    where a step has several."""
    optimizer = make_optimizer(spec.optim)
    gradient = _make_gradient(spec, objective, layout)

    def update(
        state: TrainState, batch: _Seeded, hyper: Hyper, part: tuple[Array, int] | None
    ) -> tuple[TrainState, Metrics]:
        scale = state.extra.get("loss_scale")
        filled = hyper.micro_batches if shared else None
        wide = mixed_precision.widen(spec, state.params)
        free = trainable(wide, spec.optim.frozen)
        (sums, means), grads, squares = gradient(free, wide, batch, scale, filled)
        loss = sums.pop("loss")
        extra, log = _noise(spec, state.extra, squares, grads)
        log |= sums | objective.metrics(means)
        if spec.optim.sam_rho > 0.0:
            grads = gradient(ascend(spec.optim, free, grads), wide, batch, scale, filled)[1]
        if layout is not None:
            grads = layout.constrain_gradients(grads)
        step = state.step if part is None else state.step + (part[0] + 1.0) / part[1] - 1.0
        rate = learning_rate(spec.optim, step, hyper.total, hyper.peak, hyper.warmup)
        updates, opt_state = optimizer.update(
            grads, state.opt_state, free, learning_rate=rate, weight_decay=hyper.decay
        )
        key = mixed_precision.rounding_key(
            hyper.seed, state.step, None if part is None else part[0]
        )
        params = mixed_precision.narrow(spec, optax.apply_updates(free, updates), key)
        params = merged(params, state.params)
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
