"""Mixed precision: the type that suits a device, dynamic loss scaling for float16, and stochastic
rounding of bfloat16 parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from gptjax import ops
from gptjax.ops.backend import compute_type
from gptjax.train.config import RunSpec

Params = Any

ROUNDING = 0x52  # separates the keys of rounding from those of initialisation


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LossScale:
    """The factor that keeps float16 gradients above their smallest number.

    Attributes:
      value: the factor, float32.
      good_steps: steps since it last changed, int32.
      skips: updates left out so far because a gradient overflowed, int32.
    """

    value: Array
    good_steps: Array
    skips: Array


def resolve_compute_type(spec: RunSpec) -> RunSpec:
    """The spec with `model.compute_dtype=auto` replaced by the type that suits the device.

    The type is part of the spec, hence of the run's identity.
    """
    if spec.model.compute_dtype != "auto":
        return spec
    model = dataclasses.replace(spec.model, compute_dtype=compute_type(spec.model.width))
    return dataclasses.replace(spec, model=model)


def scales_loss(spec: RunSpec) -> bool:
    """Whether the loss is scaled: for float16 activations, whose exponent has five bits."""
    return spec.model.compute_dtype == "float16"


def first_scale(spec: RunSpec) -> LossScale:
    """The initial scale."""
    zero = jnp.zeros((), jnp.int32)
    return LossScale(jnp.float32(spec.loss_scale), zero, zero)


def next_scale(scale: LossScale, finite: Array, interval: int) -> LossScale:
    """Halved after an overflow, doubled after `interval` steps without one (torch's GradScaler)."""
    good = jnp.where(finite, scale.good_steps + 1, 0)
    grows = good == interval
    factor = jnp.where(finite, jnp.where(grows, 2.0, 1.0), 0.5)
    return LossScale(
        value=scale.value * factor,
        good_steps=jnp.where(grows, 0, good),
        skips=scale.skips + jnp.where(finite, 0, 1),
    )


def guard(
    spec: RunSpec, scale: LossScale, grads: Any, loss: Array, new: Any, old: Any
) -> tuple[Any, Array, LossScale]:
    """The result of an update whose gradient may have overflowed.

    Args:
      new, old: parameters and optimizer state after the update, and before it.

    Returns:
      `new`, or `old` after an overflow; 1 where the step was left out, float32; the next scale.
    """
    finite = all_finite(grads)
    kept = choose(finite, new, old)
    # A loss that is not finite is no overflow of the gradient: no scale helps it.
    skipped = (~finite & jnp.isfinite(loss)).astype(jnp.float32)
    return kept, skipped, next_scale(scale, finite, spec.loss_scale_interval)


def all_finite(tree: Any) -> Array:
    """Whether every number of every array is finite."""
    each = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.all(jnp.stack(each))


def choose(condition: Array, yes: Any, no: Any) -> Any:
    """One of two trees of the same shapes."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def widen(spec: RunSpec, params: Params) -> Params:
    """Float32 copies for one step; the parameters themselves where they are float32 or codes."""
    if spec.param_dtype == "float32":
        return params
    floats = lambda p: jnp.issubdtype(p.dtype, jnp.floating)  # noqa: E731
    return jax.tree.map(lambda p: p.astype(jnp.float32) if floats(p) else p, params)


def rounding_key(seed: Array, step: Array, part: Array | None) -> Array:
    """The key of one update's rounding; `part` numbers the updates of a step that has several."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(ROUNDING), seed), step)
    return key if part is None else jax.random.fold_in(key, part)


def narrow(spec: RunSpec, params: Params, key: Array) -> Params:
    """The parameters to store, rounded stochastically."""
    if spec.param_dtype == "float32":
        return params
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))
    return jax.tree.unflatten(
        tree, [ops.stochastic_round(*pair) for pair in zip(leaves, keys, strict=True)]
    )
