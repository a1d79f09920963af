"""Optimizer factory: optax chains; the training step passes the learning rate in."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from gptjax.errors import UserError
from gptjax.optim.adam8bit import scale_by_adam_8bit
from gptjax.optim.clipping import clip_by_global_norm
from gptjax.optim.config import OptimConfig
from gptjax.optim.ema import average_weights
from gptjax.optim.path_rules import decay_mask, learning_rate_factors, matrix_axes
from gptjax.optim.registry import OPTIMIZERS, Optimizer

Params = Any

MATCHING_RMS = 0.2
"""Root mean square of muon's update of a matrix, that of AdamW's (Liu et al. 2025,
arXiv:2502.16982, section 2.2), so that both are used with learning rates of one size."""


def make_optimizer(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """The chain clip → base → decoupled decay → learning rate, and what is wrapped around it.

    `update(grads, state, params, learning_rate=η, weight_decay=λ)` returns what is added to the
    parameters. η and λ are arguments, so that they can be traced numbers and runs with others, or
    of other lengths, share the compiled program; without λ it is the config's. A config without
    decay has none whatever λ is.
    """
    step = OPTIMIZERS[config.name].wrap(config, lambda: _descent(config))
    clip = [clip_by_global_norm(config.clip_norm)] if config.clip_norm > 0.0 else []
    optimizer = optax.chain(*clip, step)
    if config.skip_not_finite > 0:
        optimizer = optax.apply_if_finite(optimizer, config.skip_not_finite)
    if config.ema_decay > 0.0:
        optimizer = average_weights(optimizer, config.ema_decay)
    return optax.with_extra_args_support(optimizer)


def _descent(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """−η·multiplier·(base's update + decay·parameter)."""
    parts = [OPTIMIZERS[config.name].base(config)]
    if config.weight_decay > 0.0:
        parts.append(_decay_weights(config))
    return optax.chain(*parts, _scale_by_learning_rate(config))


def _decay_weights(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    """optax.add_decayed_weights with a decay that may be traced."""

    def update(
        updates: Params,
        state: Any,
        params: Params = None,
        *,
        weight_decay: Any = config.weight_decay,
        **extra: Any,
    ) -> tuple[Params, Any]:
        decayed = decay_mask(params, config.no_decay)
        added = jax.tree.map(
            lambda u, p, yes: u + weight_decay * p if yes else u, updates, params, decayed
        )
        return added, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _scale_by_learning_rate(config: OptimConfig) -> optax.GradientTransformationExtraArgs:
    def update(
        updates: Params, state: Any, params: Params = None, *, learning_rate: Any, **extra: Any
    ) -> tuple[Params, Any]:
        if config.multipliers:
            factors = learning_rate_factors(updates, config.multipliers)
            updates = jax.tree.map(lambda u, factor: factor * u, updates, factors)
        return jax.tree.map(lambda u: -learning_rate * u, updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _schedule_free(
    config: OptimConfig, make_descent: Callable[[], optax.GradientTransformationExtraArgs]
) -> optax.GradientTransformationExtraArgs:
    """optax's schedule-free form of the chain, made anew at each update for its η.

    The making only closes over η, so it costs nothing once compiled.
    """

    def at(learning_rate: Any) -> optax.GradientTransformationExtraArgs:
        return optax.contrib.schedule_free(make_descent(), learning_rate, b1=config.b1)

    def update(
        grads: Params, state: Any, params: Params = None, *, learning_rate: Any, **extra: Any
    ) -> tuple[Params, Any]:
        optimizer = at(learning_rate)
        return optimizer.update(grads, state, params, learning_rate=learning_rate, **extra)

    return optax.GradientTransformationExtraArgs(at(1.0).init, update)


def _adamw(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


def _adam8bit(config: OptimConfig) -> optax.GradientTransformation:
    return scale_by_adam_8bit(
        b1=config.b1,
        b2=config.b2,
        eps=config.eps,
        full_precision=config.full_precision,
        stochastic=config.state_rounding == "stochastic",
    )


def _muon(config: OptimConfig) -> optax.GradientTransformation:
    """Muon for the matrices inside blocks, Nesterov-Adam (optax's default) for all else."""
    descent = optax.contrib.muon(
        1.0,
        beta=config.b1,
        eps=config.eps,
        adam_b1=config.b1,
        adam_b2=config.b2,
        muon_weight_dimension_numbers=matrix_axes,
        consistent_rms=MATCHING_RMS,
    )
    return optax.chain(descent, optax.scale(-1.0))


def _lion(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_lion(b1=config.b1, b2=config.b2)


def _adafactor(config: OptimConfig) -> optax.GradientTransformation:
    """optax's defaults: steps relative to the size of a parameter, clipped, no momentum."""
    return optax.chain(optax.adafactor(), optax.scale(-1.0))


def _adam_without_momentum(config: OptimConfig) -> optax.GradientTransformation:
    """Schedule-free puts its averaging in the place of the momentum."""
    return optax.scale_by_rms(
        decay=config.b2, eps=config.eps, eps_in_sqrt=False, bias_correction=True
    )


def _sgd(config: OptimConfig) -> optax.GradientTransformation:
    return optax.trace(decay=config.b1)


def _check_schedule_free(config: OptimConfig) -> None:
    if config.b1 == 0.0:
        raise UserError(
            "optim.b1=0.0 leaves schedule_free nothing to interpolate; set optim.b1=0.9"
        )
    if config.ema_decay > 0.0:
        raise UserError(
            f"optim.ema_decay={config.ema_decay:g} would average what schedule_free has averaged; "
            "set optim.ema_decay=0"
        )


OPTIMIZERS.update(
    adamw=Optimizer(_adamw, own_size=True),
    adam8bit=Optimizer(_adam8bit, own_size=True),
    muon=Optimizer(_muon),
    lion=Optimizer(_lion, own_size=True),
    adafactor=Optimizer(_adafactor),
    schedule_free=Optimizer(
        _adam_without_momentum, own_size=True, wrap=_schedule_free, check=_check_schedule_free
    ),
    sgd=Optimizer(_sgd),
)
