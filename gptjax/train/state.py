"""State of a run as frozen pytrees, and the numbers that a compiled program takes as inputs."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import models
from gptjax.optim import make_optimizer
from gptjax.train.config import RunSpec

CURVE_BINS = 64


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a run needs in order to continue.

    Attributes:
      params: model parameters, float32.
      opt_state: optimizer state.
      step: updates done, int32; the position in the data is a function of it.
      curve: sum of the training loss over the steps of each curve bin, [CURVE_BINS] float32.
    """

    params: Any
    opt_state: Any
    step: Array
    curve: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Hyper:
    """Traced inputs of the step: runs that differ only here share one compiled program.

    Attributes:
      peak: largest learning rate, float32.
      total: updates of the whole run, int32.
      seed: seed of the data order, uint32.
      curve_ends: last step (exclusive) of each curve bin, [CURVE_BINS] int32, increasing.
    """

    peak: Array
    total: Array
    seed: Array
    curve_ends: Array


def init_state(spec: RunSpec, key: Array) -> TrainState:
    """Initial parameters and optimizer state; a pure function of the spec and the key."""
    params = models.init(spec.model, key)
    return TrainState(
        params=params,
        opt_state=make_optimizer(spec.optim).init(params),
        step=jnp.zeros((), jnp.int32),
        curve=jnp.zeros((CURVE_BINS,), jnp.float32),
    )


def make_hyper(spec: RunSpec) -> Hyper:
    """The traced inputs that belong to a spec."""
    return Hyper(
        peak=jnp.float32(spec.optim.learning_rate),
        total=jnp.int32(spec.steps),
        seed=jnp.uint32(spec.seed),
        curve_ends=jnp.asarray(curve_ends(spec.steps)),
    )


def curve_ends(steps: int) -> np.ndarray:
    """Ends of the bins of the training curve: log-spaced over the last two decades of the run.

    A short run has fewer bins; the rest lie beyond its end and stay empty.
    """
    ends = np.unique(np.round(np.geomspace(max(1.0, steps / 100), steps, CURVE_BINS)).astype(int))
    beyond = steps + 1 + np.arange(CURVE_BINS - len(ends))
    return np.concatenate([ends, beyond]).astype(np.int32)


def read_curve(spec: RunSpec, sums: np.ndarray) -> tuple[list[int], list[float]]:
    """(step, mean training loss in nats per token) of each bin of a finished run."""
    ends = curve_ends(spec.steps)
    ends = ends[ends <= spec.steps]
    counts = np.diff(ends, prepend=0)
    losses = np.asarray(sums, np.float64)[: len(ends)] / counts
    return [int(end) for end in ends], [float(loss) for loss in losses]
