"""Exponential moving average (EMA) of the weights, and the parameters that are evaluated."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array
from optax.contrib import ScheduleFreeState, schedule_free_eval_params

from gptjax.optim.config import OptimConfig
from gptjax.optim.frozen import like, merged

Params = Any


class AverageState(NamedTuple):
    """An average of the weights, beside the optimizer's state.

    Attributes:
      steps: updates averaged, int32.
      average: in the tree of the parameters; the initial parameters before the first update.
      inner: state of the optimizer.
    """

    steps: Array
    average: Params
    inner: Any


def average_weights(
    inner: optax.GradientTransformationExtraArgs, decay: float
) -> optax.GradientTransformationExtraArgs:
    """`inner`, with an exponential moving average of the weights after each of its updates.

    a_t = a_{t−1} + (1−d)/(1−d^t)·(w_t − a_{t−1}): Adam's bias-corrected average, kept corrected, so
    that it is a weighted mean of the visited weights whatever t is.
    """

    def init(params: Params) -> AverageState:
        copies = jax.tree.map(jnp.copy, params)
        return AverageState(jnp.zeros((), jnp.int32), copies, inner.init(params))

    def update(
        grads: Params, state: AverageState, params: Params = None, **extra: Any
    ) -> tuple[Params, AverageState]:
        updates, inner_state = inner.update(grads, state.inner, params, **extra)
        count = optax.safe_increment(state.steps)
        weight = (1.0 - decay) / -jnp.expm1(count * math.log(decay))
        average = jax.tree.map(
            lambda a, p: a + weight * (p - a), state.average, optax.apply_updates(params, updates)
        )
        return updates, AverageState(count, average, inner_state)

    return optax.GradientTransformationExtraArgs(init, update)


def eval_params(opt_state: Any, params: Params) -> Params:
    """The parameters to evaluate and to sample from.

    The average of the weights where there is one, the x iterate of schedule-free where that is the
    optimizer (its `params` are the y iterate, where gradients are taken), else `params`.
    """
    averaged = _first(opt_state, AverageState)
    if averaged is not None:
        return merged(averaged.average, params)
    free = _first(opt_state, ScheduleFreeState)
    if free is None:
        return params
    return merged(schedule_free_eval_params(free, like(params, free.z)), params)


def skipped_steps(opt_state: Any) -> Array:
    """Updates left out so far because their gradient was not finite, int32."""
    guard = _first(opt_state, optax.ApplyIfFiniteState)
    return jnp.zeros((), jnp.int32) if guard is None else guard.total_notfinite


def was_skipped(config: OptimConfig, opt_state: Any) -> Array:
    """Whether the last update was left out; one too many in a row is made, and the run is lost."""
    guard = _first(opt_state, optax.ApplyIfFiniteState)
    if guard is None:
        return jnp.zeros((), bool)
    return (guard.notfinite_count > 0) & (guard.notfinite_count <= config.skip_not_finite)


def _first(state: Any, kind: type) -> Any:
    """The first part of a nested state that is of `kind`, or None."""
    leaves = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, kind))
    return next((leaf for leaf in leaves if isinstance(leaf, kind)), None)
