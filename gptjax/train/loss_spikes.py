"""Rollback after a loss spike: the run returns to an earlier state and skips the batches around it.

PaLM (Chowdhery et al. 2022, arXiv:2204.02311, section 5.1) restarted from a checkpoint some 100
steps before a spike and skipped 200 to 500 batches, which cover those seen before and during it.
Here a run keeps a checkpoint every `train.rollback_steps` steps. After a spike at step t it goes on
from the last but one of these, and the batches from there to `train.rollback_skip` beyond the spike
are left out. What decides is in the state, and the state alone: a run that is killed anywhere and
started again takes the same decisions.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax.train.config import RunSpec
from gptjax.train.state import Spikes, TrainState

MEMORY = 100
"""Steps over which the loss is averaged; a rise counts from a fifth of them on."""

METRIC = "train/spike"


@dataclasses.dataclass(frozen=True)
class Rollback:
    """One return to an earlier state.

    Attributes:
      step: the step whose loss was a spike (counted from 0).
      loss: that loss, nats per token.
      start: the step from which the run went on.
      skipped: batches that are left out after it.
    """

    step: int
    loss: float
    start: int
    skipped: int


class Spiked(Exception):
    """A step's loss is a spike; the state after it is given up."""

    def __init__(self, step: int, loss: float, spikes: Spikes) -> None:
        super().__init__(f"the training loss is {loss:.4g} at step {step}")
        self.step, self.loss, self.spikes = step, loss, spikes


def position(state: TrainState) -> Array:
    """The number of the batch that the next step reads."""
    spikes = state.extra.get("spikes")
    return state.step if spikes is None else state.step + spikes.shift


def observe(spec: RunSpec, spikes: Spikes, loss: Array, skipped: Array) -> tuple[Spikes, Array]:
    """The running mean with one more loss, and 1 where that loss is a spike.

    A loss that is not finite is one, unless its update was left out; so is one that exceeds the
    mean by `spike_nats`.
    """
    finite = jnp.isfinite(loss)
    known = spikes.seen >= MEMORY // 5
    rise = known & (loss > spikes.mean + spec.spike_nats) if spec.spike_nats else False
    bad = jnp.where(finite, rise, skipped == 0)
    seen = jnp.minimum(spikes.seen + 1, MEMORY)
    mean = spikes.mean + (loss - spikes.mean) / seen
    new = dataclasses.replace(
        spikes,
        mean=jnp.where(finite, mean, spikes.mean),
        seen=jnp.where(finite, seen, spikes.seen),
    )
    return new, bad.astype(jnp.float32)


def restart(spec: RunSpec, spike: Spiked) -> Rollback:
    """The rollback that a spike calls for."""
    every = spec.rollback_steps
    start = every * max(0, spike.step // every - 1)
    return Rollback(spike.step, spike.loss, start, spike.step - start + 1 + spec.rollback_skip)


def after(state: TrainState, spike: Spiked, rollback: Rollback) -> TrainState:
    """The state at `rollback.start`, with the spike noted and its batches left out."""
    past = jax.tree.map(np.asarray, spike.spikes)
    number = int(past.count)

    def noted(values: Any, value: float) -> Any:
        copy = values.copy()
        copy[number] = value
        return copy

    old = state.extra["spikes"]
    new = Spikes(
        mean=old.mean,
        seen=old.seen,
        shift=past.shift + np.int32(rollback.skipped),
        count=past.count + np.int32(1),
        steps=noted(past.steps, rollback.step),
        starts=noted(past.starts, rollback.start),
        losses=noted(past.losses, rollback.loss),
        skipped=noted(past.skipped, rollback.skipped),
    )
    placed: Any = jax.tree.map(lambda x, like: jax.device_put(x, like.sharding), new, old)
    return dataclasses.replace(state, extra={**state.extra, "spikes": placed})


def rollbacks(state: TrainState) -> tuple[Rollback, ...]:
    """The rollbacks that a state has behind it."""
    spikes = state.extra.get("spikes")
    if spikes is None:
        return ()
    past = jax.tree.map(np.asarray, spikes)
    return tuple(
        Rollback(
            int(past.steps[i]), float(past.losses[i]), int(past.starts[i]), int(past.skipped[i])
        )
        for i in range(int(past.count))
    )
