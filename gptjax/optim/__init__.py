"""Optimizers and schedules: optax pairs (init, update)."""

from gptjax.optim.averages import eval_params, skipped_steps, was_skipped
from gptjax.optim.clipping import global_norm
from gptjax.optim.config import OPTIMIZERS, OptimConfig, validate
from gptjax.optim.optimizers import make_optimizer
from gptjax.optim.paths import decay_mask
from gptjax.optim.schedules import learning_rate, shared_steps
from gptjax.optim.sharpness import ascend

__all__ = [
    "OPTIMIZERS",
    "OptimConfig",
    "ascend",
    "decay_mask",
    "eval_params",
    "global_norm",
    "learning_rate",
    "make_optimizer",
    "shared_steps",
    "skipped_steps",
    "validate",
    "was_skipped",
]
