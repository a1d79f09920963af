"""Optimizers as optax chains; the learning rate is applied by the training step."""

import re
from typing import Any

import jax
import optax

from gptjax.optim.config import OptimConfig

Params = Any


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """The chain clip → base → decoupled decay, without the learning rate.

    The training step multiplies the update by −η(step), so that η can be a traced number and runs
    with other learning rates or lengths share the compiled program.
    """
    parts = []
    if config.clip_norm > 0.0:
        parts.append(optax.clip_by_global_norm(config.clip_norm))
    parts.append(_BASES[config.name](config))
    if config.weight_decay > 0.0:
        mask = lambda params: decay_mask(params, config.no_decay)  # noqa: E731
        parts.append(optax.add_decayed_weights(config.weight_decay, mask=mask))
    return optax.chain(*parts)


def decay_mask(params: Params, no_decay: tuple[str, ...]) -> Params:
    """True for each parameter that is decayed: its path matches none of the expressions."""
    patterns = [re.compile(pattern) for pattern in no_decay]

    def decayed(path: tuple, leaf: Any) -> bool:
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return not any(pattern.search(name) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(decayed, params)


def _adamw(config: OptimConfig) -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)


_BASES = {"adamw": _adamw}
