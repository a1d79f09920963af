"""From a wanted size to the nearest shape, and from a shape to its counts."""

import dataclasses
import math

from gptjax import models, ops
from gptjax.models import ModelConfig, ParamCount
from gptjax.scaling import flops
from gptjax.sweeps.config import SweepConfig


def with_width(model: ModelConfig, sweep: SweepConfig, width: int) -> ModelConfig:
    """`model` at another width: depth, heads and feed-forward follow by the sweep's rules.

    A scale of the attention scores stays the same multiple of 1/√head_dim.
    """
    depth = model.depth
    if sweep.depth_rule == "aspect":
        depth = max(1, round(width / sweep.aspect))
    mlp_width = 0
    if model.mlp_width:
        mlp_width = max(1, round(model.mlp_width * width / model.width))
    heads = heads_of_width(width, sweep.head_width)
    groups = model.num_heads // model.kv_heads
    scale = model.attention_scale * math.sqrt(model.head_width / (width // heads))
    return dataclasses.replace(
        model,
        attention_scale=scale,
        width=width,
        depth=depth,
        mlp_width=mlp_width,
        num_heads=heads,
        num_kv_heads=max(1, heads // groups) if model.num_kv_heads else 0,
        head_dim=0,
    )


def heads_of_width(width: int, head_width: int) -> int:
    """The number of heads whose width is even and nearest to the wanted one.

    >>> heads_of_width(96, 32), heads_of_width(40, 32), heads_of_width(12, 32)
    (3, 1, 1)
    """
    fitting = [n for n in range(1, width // 2 + 1) if width % (2 * n) == 0]
    return min(fitting, key=lambda n: (abs(width / n - head_width), n))


def ladder(model: ModelConfig, sweep: SweepConfig, largest: float) -> list[ModelConfig]:
    """Shapes of growing size, neighbours about `sweep.spacing` apart, up to `largest` parameters.

    One ladder for all budgets, so that budgets share shapes and shapes share compiled programs.
    """
    shapes: list[ModelConfig] = []
    width, step = sweep.width_step, sweep.width_step
    while True:
        shape = with_width(model, sweep, width)
        size = size_of(shape)
        if not shapes or size >= 0.97 * sweep.spacing * size_of(shapes[-1]):
            shapes.append(shape)
        if size > largest:
            return shapes
        width += step * max(1, width // (16 * step))


def size_of(model: ModelConfig) -> int:
    """Parameters without embeddings but with the head: the size that rules and ladders use."""
    return models.count_params(model).non_embedding_with_head


def counts(model: ModelConfig) -> ParamCount:
    """Parameters, three ways."""
    return models.count_params(model)


def training_flops_per_token(model: ModelConfig, cost: float = 1.0) -> float:
    """Exact matmul FLOPs of one training token; `cost` gradients a step (`OptimConfig.cost`)."""
    return cost * flops.training_flops_per_token(
        depth=model.depth,
        width=model.width,
        num_heads=model.num_heads,
        num_kv_heads=model.kv_heads,
        head_dim=model.head_width,
        mlp_width=model.hidden_width,
        mlp_matrices=3 if ops.FEED_FORWARD[model.mlp][1] else 2,
        gated_attention=model.attention_gate,
        local_layers=model.layers_of_depth.count("local"),
        window=model.window,
        seq_len=model.seq_len,
        vocab_size=model.vocab_size,
    )
