"""Hyperparameter rules: batch size and learning rate from (parameters, tokens, FLOPs).

Never of the position in a grid: a cell's hyperparameters do not change when its neighbours do.
"""

import dataclasses
import math
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Scale:
    """The inputs of a rule.

    Attributes:
      params: parameters without embeddings.
      params_with_head: the same plus the head.
      tokens: tokens of the run.
      flops: exact training FLOPs of the run.
    """

    params: float
    params_with_head: float
    tokens: float
    flops: float


@dataclasses.dataclass(frozen=True)
class Rule:
    """Functions and where they come from; None leaves the config's own value.

    Attributes:
      learning_rate: peak learning rate of AdamW.
      batch_tokens: tokens in a batch.
      source: the paper or measurement.
      warmup_tokens: tokens of linear warm-up, whatever the length of the run.
    """

    learning_rate: Callable[[Scale], float] | None
    batch_tokens: Callable[[Scale], float] | None
    source: str
    warmup_tokens: Callable[[Scale], float] | None = None


def _demo_learning_rate(scale: Scale) -> float:
    return 8e-3 * (scale.params_with_head / 6e4) ** -0.5


def _demo_batch_tokens(scale: Scale) -> float:
    return max(256.0, 1024.0 * (scale.tokens / 3e6) ** 0.5)


def _kaplan_learning_rate(scale: Scale) -> float:
    return max(0.003239 - 0.0001395 * math.log(scale.params), 1e-5)


RULES = {
    "demo": Rule(
        _demo_learning_rate,
        _demo_batch_tokens,
        "tuned on python-stdlib bytes with this code; see docs/performance.md",
    ),
    "demo_trunk": Rule(
        _demo_learning_rate,
        lambda scale: 512.0 if scale.tokens < 1.2e6 else 1024.0,
        "the same corpus, with two batch sizes only, so that lengths share trunks",
        lambda scale: 51200.0,
    ),
    "fixed": Rule(None, None, "optim.learning_rate and train.batch_size as configured"),
    "kaplan": Rule(
        _kaplan_learning_rate,
        None,
        "Kaplan et al. 2020 (arXiv:2001.08361), equation D.1; Adam, 3e3 < N < 1e9; their batch is "
        "a constant 512 × 1024 tokens, so train.batch_size holds",
    ),
    "deepseek": Rule(
        lambda scale: 0.3118 * scale.flops**-0.1250,
        lambda scale: 0.2920 * scale.flops**0.3271,
        "DeepSeek LLM 2024 (arXiv:2401.02954), equation 1; fitted between 1e17 and 2e19 FLOPs",
    ),
    "step_law": Rule(
        lambda scale: 1.79 * scale.params**-0.713 * scale.tokens**0.307,
        lambda scale: 0.58 * scale.tokens**0.571,
        "Li et al. 2025 (arXiv:2503.04715), equation 1; N without embeddings, 6e7 to 1e9",
    ),
}


def optimum_of_demo(flops: float) -> float:
    """Expected optimal size (non-embedding + head) of the demo's regime at `flops`."""
    return 6.4e4 * (flops / 1e12) ** 0.4
