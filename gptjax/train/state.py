"""Training state as frozen pytrees, and the traced hyperparameters of a step."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import models
from gptjax.data.mixture_order import Schedule, make_schedule
from gptjax.models.quantized import is_quantized
from gptjax.optim import make_optimizer, trainable
from gptjax.train import gradient_noise, mixed_precision
from gptjax.train.config import RunSpec

CURVE_GROWTH = 1.075
CURVE_SPAN = 100
"""A training curve begins at the step with this part of the run's steps."""


def _curve_ends() -> np.ndarray:
    """Ends (exclusive) of the curve's bins: each step at first, then growing by a constant factor.

    One ladder for runs of every length, so that a run's curve is the beginning of a longer run's.
    """
    ends = [1]
    while ends[-1] < 2**31 - 1:
        ends.append(min(max(ends[-1] + 1, round(ends[-1] * CURVE_GROWTH)), 2**31 - 1))
    return np.asarray(ends, np.int32)


CURVE_ENDS = _curve_ends()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Spikes:
    """Loss statistics and past rollbacks of a run with `train.rollbacks`.

    Attributes:
      mean: running mean of the loss, nats per token.
      seen: steps in it, up to a limit, int32.
      shift: batches skipped so far, int32.
      count: rollbacks so far, int32.
      steps, starts, losses, skipped: of each rollback, as `loss_spikes.Rollback`, one place for
        each that is allowed.
    """

    mean: Array
    seen: Array
    shift: Array
    count: Array
    steps: Array
    starts: Array
    losses: Array
    skipped: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """Complete state of a run: all that a resume needs.

    Attributes:
      params: model parameters, in the spec's param_dtype.
      opt_state: optimizer state.
      step: updates done, int32; the position in the data is a function of it.
      curve: sum of the training loss over the steps of each bin of CURVE_ENDS, float32.
      extra: state of the options that are on: `loss_scale` (LossScale), `noise` (GradientNoise),
        `spikes` (Spikes).
    """

    params: Any
    opt_state: Any
    step: Array
    curve: Array
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """Traced inputs of the step: runs that differ only here share one compiled program.

    Attributes:
      peak: largest learning rate, float32.
      decay: weight decay, float32.
      total: updates of the whole run, int32.
      warmup: `optim.warmup_steps`, int32; unread where they are a fraction of the run.
      seed: seed of the data order, uint32.
      micro_batches: of a step, int32; read by a `micro_batches.shared_program` alone.
      mixture: the order of the sources; None where there is one.
    """

    peak: Array
    decay: Array
    total: Array
    warmup: Array
    seed: Array
    micro_batches: Array
    mixture: Schedule | None = None


def init_state(spec: RunSpec, key: Array) -> TrainState:
    """Initial parameters and optimizer state; a pure function of the spec and the key."""
    return state_of(spec, models.init(spec.model, key))


def state_of(spec: RunSpec, params: Any) -> TrainState:
    """The state in which a run begins from parameters; quantized ones stay as they are."""

    def stored(leaf: Any) -> Any:
        return leaf if is_quantized(leaf) else leaf.astype(spec.param_dtype)

    return TrainState(
        params=jax.tree.map(stored, params, is_leaf=is_quantized),
        opt_state=make_optimizer(spec.optim).init(trainable(params, spec.optim.frozen)),
        step=jnp.zeros((), jnp.int32),
        curve=jnp.zeros(CURVE_ENDS.shape, jnp.float32),
        extra=_extra(spec),
    )


def _extra(spec: RunSpec) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if mixed_precision.scales_loss(spec):
        extra["loss_scale"] = mixed_precision.first_scale(spec)
    if spec.noise_scale:
        extra["noise"] = gradient_noise.no_estimate()
    if spec.rollbacks:
        zero, each = jnp.zeros((), jnp.int32), jnp.zeros((spec.rollbacks,), jnp.int32)
        extra["spikes"] = Spikes(
            mean=jnp.zeros(()),
            seen=zero,
            shift=zero,
            count=zero,
            steps=each,
            starts=each,
            losses=jnp.zeros((spec.rollbacks,)),
            skipped=each,
        )
    return extra


def make_hyper(spec: RunSpec) -> Hyper:
    """The traced inputs that belong to a spec."""
    return Hyper(
        peak=jnp.float32(spec.optim.learning_rate),
        decay=jnp.float32(spec.optim.weight_decay),
        total=jnp.int32(spec.steps),
        warmup=jnp.int32(spec.optim.warmup_steps),
        seed=jnp.uint32(spec.seed),
        micro_batches=jnp.int32(spec.micro_batches),
        mixture=_schedule(spec),
    )


def _schedule(spec: RunSpec) -> Schedule | None:
    if not spec.source_weights:
        return None
    return make_schedule(spec.source_weights, spec.weight_phases, spec.steps, spec.batch_size)


def add_to_curve(curve: Array, step: Array, loss: Array) -> Array:
    """The curve with the loss of the step with index `step` (0-based) in its bin."""
    slot = jnp.searchsorted(jnp.asarray(CURVE_ENDS), step, side="right", method="compare_all")
    return curve.at[slot].add(loss)


def read_curve(spec: RunSpec, sums: np.ndarray) -> tuple[list[int], list[float]]:
    """(step, mean training loss in nats per token) of the bins of a finished run's last decades.

    The last bin ends with the run.
    """
    ends = np.minimum(CURVE_ENDS, spec.steps)
    counts = np.diff(ends, prepend=0)
    shown = (counts > 0) & (ends * CURVE_SPAN >= spec.steps)
    losses = np.asarray(sums, np.float64)[shown] / counts[shown]
    return [int(end) for end in ends[shown]], [float(loss) for loss in losses]
