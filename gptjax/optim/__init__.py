"""Optimizers and schedules: optax pairs (init, update)."""

from gptjax.optim.averages import eval_params, skipped_steps, was_skipped
from gptjax.optim.config import OPTIMIZERS, OptimConfig, validate
from gptjax.optim.optimizers import make_optimizer
from gptjax.optim.paths import decay_mask
from gptjax.optim.schedules import learning_rate
from gptjax.optim.sharpness import ascend

__all__ = [
    "OPTIMIZERS",
    "OptimConfig",
    "ascend",
    "decay_mask",
    "eval_params",
    "learning_rate",
    "make_optimizer",
    "skipped_steps",
    "validate",
    "was_skipped",
]
