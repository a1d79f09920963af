"""FLOPs of a model and of a run: each layer counts its own matrix products."""

from gptjax import models
from gptjax.cost import flop_formulas
from gptjax.models import ModelConfig
from gptjax.train import RunSpec


def flops_6nd(run: RunSpec) -> float:
    """6ND of a run, N with the head and, of experts, those that a token passes."""
    active = models.count_active_params(run.model).non_embedding_with_head
    return flop_formulas.flops_6nd(active, run.tokens) * run.optim.cost


def training_flops_per_token(model: ModelConfig, cost: float = 1.0) -> float:
    """Exact matmul FLOPs of one training token; `cost` gradients a step (`OptimConfig.cost`)."""
    return cost * (flop_formulas.TRAINING_OVER_FORWARD * models.forward_flops(model))
