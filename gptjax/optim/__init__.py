"""Optimizers, schedules and parameter rules: optax pairs (init, update)."""

from gptjax.optim.clipping import global_norm
from gptjax.optim.config import OptimConfig, validate
from gptjax.optim.ema import eval_params, skipped_steps, was_skipped
from gptjax.optim.frozen import merged, trainable
from gptjax.optim.optimizers import make_optimizer
from gptjax.optim.path_rules import decay_mask
from gptjax.optim.registry import OPTIMIZERS, SCHEDULES, Optimizer, Schedule
from gptjax.optim.sam import ascend
from gptjax.optim.schedules import learning_rate, shared_steps

__all__ = [
    "OPTIMIZERS",
    "SCHEDULES",
    "OptimConfig",
    "Optimizer",
    "Schedule",
    "ascend",
    "decay_mask",
    "eval_params",
    "global_norm",
    "learning_rate",
    "make_optimizer",
    "merged",
    "shared_steps",
    "skipped_steps",
    "trainable",
    "validate",
    "was_skipped",
]
