"""Optimizers and schedules: optax pairs (init, update)."""

from gptjax.optim.config import OptimConfig
from gptjax.optim.optimizers import decay_mask, make_optimizer
from gptjax.optim.schedules import learning_rate

__all__ = ["OptimConfig", "decay_mask", "learning_rate", "make_optimizer"]
