"""Shapes of a sweep: a model at another width, and the ladder of sizes."""

import dataclasses
import math
import operator
from typing import TYPE_CHECKING

from gptjax import models
from gptjax.fields import replaced
from gptjax.models import ModelConfig

if TYPE_CHECKING:
    from gptjax.sweeps.config import SweepConfig


def _fixed_depth(model: ModelConfig, sweep: "SweepConfig", width: int) -> int:
    return model.depth


def _depth_by_aspect(model: ModelConfig, sweep: "SweepConfig", width: int) -> int:
    return max(1, round(width / sweep.aspect))


DEPTH_RULES = {"fixed": _fixed_depth, "aspect": _depth_by_aspect}
"""Depth at a width, by `sweep.depth_rule`."""


def with_width(model: ModelConfig, sweep: "SweepConfig", width: int) -> ModelConfig:
    """`model` at another width: depth, heads and feed-forward follow by the sweep's rules.

    A scale of the attention scores stays the same multiple of 1/√head_dim.
    """
    depth = DEPTH_RULES[sweep.depth_rule](model, sweep, width)

    def scaled(size: int) -> int:
        """A size of the given model in proportion to the width; 0 stays 0."""
        return max(1, round(size * width / model.width)) if size else 0

    heads = heads_of_width(width, sweep.head_width)
    groups = model.num_heads // model.kv_heads
    scale = model.attention_scale * math.sqrt(model.head_width / (width // heads))
    inside = ("experts.width", "mixer.latent.kv_rank", "mixer.latent.q_rank", "mixer.ssm.rank")
    sized = replaced(model, {key: scaled(operator.attrgetter(key)(model)) for key in inside})
    return dataclasses.replace(
        sized,
        attention_scale=scale,
        width=width,
        depth=depth,
        mlp_width=scaled(model.mlp_width),
        num_heads=heads,
        num_kv_heads=max(1, heads // groups) if model.num_kv_heads else 0,
        head_dim=0,
    )


def heads_of_width(width: int, head_width: int) -> int:
    """The number of heads whose width is even and nearest to the wanted one.

    >>> heads_of_width(96, 32), heads_of_width(40, 32), heads_of_width(12, 32)
    (3, 1, 1)
    """
    fitting = [] if width % 2 else _divisors(width // 2)
    return min(fitting, key=lambda n: (abs(width / n - head_width), n))


def _divisors(number: int) -> list[int]:
    small = [n for n in range(1, math.isqrt(number) + 1) if number % n == 0]
    return [*small, *(number // n for n in small)]


def ladder(model: ModelConfig, sweep: "SweepConfig", largest: float) -> list[ModelConfig]:
    """Shapes of growing size, neighbours about `sweep.spacing` apart, up to `largest` parameters.

    One ladder for all budgets, so that budgets share shapes and shapes share compiled programs.
    Widths that no number of heads divides well are passed over: at a wanted head of 16, width 76
    would have 19 heads of 4.
    """
    shapes: list[ModelConfig] = []
    width, step = sweep.width_step, sweep.width_step
    while True:
        shape = with_width(model, sweep, width)
        size = size_of(shape)
        fits = _has_fair_heads(shape, sweep.head_width)
        if not shapes or (fits and size >= 0.97 * sweep.spacing * size_of(shapes[-1])):
            shapes.append(shape)
        if size > largest:
            return shapes
        width += step * max(1, width // (16 * step))


def _has_fair_heads(model: ModelConfig, wanted: int) -> bool:
    """Whether the heads are as wide as wanted to a factor of 1.5; a single one may be narrower."""
    ratio = model.head_width / wanted
    return ratio <= 1.5 and (ratio >= 1 / 1.5 or model.num_heads == 1)


def size_of(model: ModelConfig) -> int:
    """Parameters without embeddings but with the head: the size that rules and ladders use."""
    return models.count_params(model).non_embedding_with_head
