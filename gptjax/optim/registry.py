"""Registries of optimizers and learning-rate schedules: each choice is one value.

`optim.name` and `optim.schedule` accept whatever is in them, also what a user adds:

    OPTIMIZERS["mine"] = Optimizer(lambda config: optax.scale_by_adam(config.b1, config.b2))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import optax
from jax import Array

if TYPE_CHECKING:
    from gptjax.optim.config import OptimConfig


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """One entry of OPTIMIZERS.

    Attributes:
      base: config → the transform between clipping and decay; what it returns is descended, so the
        sign is the gradient's.
      own_size: whether its update of a weight has a size of its own, whatever the gradient's; muP
        holds for these.
      wrap: (config, make_descent) → the whole descent, for optimizers that need its learning rate;
        `make_descent()` gives −η·multiplier·(base's update + decay·parameter).
      check: refuses settings that do not go with it, with a UserError.
    """

    base: Callable[[OptimConfig], optax.GradientTransformation]
    own_size: bool = False
    wrap: Callable[[OptimConfig, Callable[[], Any]], Any] = lambda config, make_descent: (
        make_descent()
    )
    check: Callable[[OptimConfig], None] = lambda config: None


@dataclasses.dataclass(frozen=True)
class Schedule:
    """One entry of SCHEDULES.

    Attributes:
      shape: (config, updates done, total, steps of warm-up) → learning rate over its peak, after
        the warm-up.
      tail: (config, total) → last updates whose learning rate depends on the length of the run.
    """

    shape: Callable[[OptimConfig, Array, Array, Array], Array]
    tail: Callable[[OptimConfig, int], int] = lambda config, total: total


OPTIMIZERS: dict[str, Optimizer] = {}
SCHEDULES: dict[str, Schedule] = {}
