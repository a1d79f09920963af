"""Learning-rate schedules as pure functions of (step, total steps, peak).

Step, total, peak and steps of warm-up may be traced, so runs that differ only in length, learning
rate or warm-up share one compiled program.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax.optim.config import OptimConfig
from gptjax.optim.registry import SCHEDULES, Schedule


def learning_rate(
    config: OptimConfig, step: Array, total: Array, peak: Array, warmup: Array | None = None
) -> Array:
    """Learning rate of the update with index `step` (0-based) of `total`.

    Linear warm-up reaches the peak at the last warm-up step. Cosine, linear and wsd end exactly at
    `final_fraction`·peak on the last step. wsd decays as 1 − √progress (Hägele et al. 2024,
    arXiv:2405.18392, their best cool-down); inverse_sqrt is peak·√(warm-up/step) (Vaswani 2017).

    Args:
      step: index of the update, 0 … total−1.
      total: number of updates of the whole run.
      peak: largest learning rate.
      warmup: steps of warm-up in place of `config.warmup_steps`, where that is not 0.
    """
    done = jnp.asarray(step, jnp.float32) + 1.0
    total = jnp.asarray(total, jnp.float32)
    if not config.warmup_steps or warmup is None:
        warmup = warmup_steps(config, total)
    warmup = jnp.asarray(warmup, jnp.float32)
    shape = SCHEDULES[config.schedule].shape(config, done, total, warmup)
    # By the inverse, as the compiler divides by a constant: the same bits, traced or not.
    return peak * jnp.where(done < warmup, done * (1.0 / warmup), shape)


def warmup_steps(config: OptimConfig, total: Array) -> Array:
    """Steps of linear warm-up: as configured, or a share of the run; at least one."""
    if config.warmup_steps:
        return jnp.float32(config.warmup_steps)
    return jnp.maximum(jnp.round(config.warmup_fraction * total), 1.0)


def shared_steps(config: OptimConfig, total: int) -> int:
    """Number of first updates whose learning rate does not depend on the length of the run.

    Runs of one shape and seed that differ in `total` alone agree bit for bit in these: they share
    a trunk. It takes a warm-up that does not depend on the length either.

    >>> shared_steps(OptimConfig(schedule="wsd", warmup_steps=10, decay_fraction=0.2), 100)
    79
    >>> shared_steps(OptimConfig(schedule="wsd"), 100), shared_steps(OptimConfig(), 100)
    (0, 0)
    """
    if not config.warmup_steps:
        return 0
    steps = total - SCHEDULES[config.schedule].tail(config, total)
    return steps if steps > config.warmup_steps else 0


def _wsd_tail(config: OptimConfig, total: int) -> int:
    """The decay, and one step for a rounding that may fall either way."""
    return max(1, int(np.round(config.decay_fraction * total))) + 1


def _none(config: OptimConfig, total: int) -> int:
    return 0


def _cosine(config: OptimConfig, done: Array, total: Array, warmup: Array) -> Array:
    progress = _progress(done, warmup, total)
    low = config.final_fraction
    return low + (1.0 - low) * 0.5 * (1.0 + jnp.cos(jnp.pi * progress))


def _linear(config: OptimConfig, done: Array, total: Array, warmup: Array) -> Array:
    return 1.0 - (1.0 - config.final_fraction) * _progress(done, warmup, total)


def _wsd(config: OptimConfig, done: Array, total: Array, warmup: Array) -> Array:
    decay_steps = jnp.maximum(jnp.round(config.decay_fraction * total), 1.0)
    progress = _progress(done, jnp.maximum(total - decay_steps, warmup), total)
    return 1.0 - (1.0 - config.final_fraction) * jnp.sqrt(progress)


def _constant(config: OptimConfig, done: Array, total: Array, warmup: Array) -> Array:
    return jnp.ones_like(done)


def _inverse_sqrt(config: OptimConfig, done: Array, total: Array, warmup: Array) -> Array:
    return jnp.sqrt(warmup / done)


def _progress(done: Array, start: Array, end: Array) -> Array:
    """0 at `start`, 1 at `end`, clipped."""
    return jnp.clip((done - start) / jnp.maximum(end - start, 1.0), 0.0, 1.0)


SCHEDULES.update(
    cosine=Schedule(_cosine),
    wsd=Schedule(_wsd, tail=_wsd_tail),
    linear=Schedule(_linear),
    constant=Schedule(_constant, tail=_none),
    inverse_sqrt=Schedule(_inverse_sqrt, tail=_none),
)
