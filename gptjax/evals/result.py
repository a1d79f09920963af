"""What a task gives back: metrics with their errors, and every item."""

import dataclasses
from typing import Any

from gptjax.evals.statistics import Mean


@dataclasses.dataclass(frozen=True)
class Result:
    """The scores of one model on one task.

    Attributes:
      task: its name.
      headline: the metric that tables and laws use.
      metrics: by name; without an error where none is known.
      by: the headline by domain, level or place, each in its order.
      items: what was asked and found, plain types, in the task's order.
      baselines: score of a guess, and of the most frequent answer.
      skipped: items that the context does not hold.
      notes: sentences that a reader must know.
      higher: whether a larger headline is better.
      curve: what a figure shows, by its kind.
    """

    task: str
    headline: str
    metrics: dict[str, Mean]
    by: dict[str, Mean] = dataclasses.field(default_factory=dict)
    items: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    baselines: dict[str, float] = dataclasses.field(default_factory=dict)
    skipped: int = 0
    notes: tuple[str, ...] = ()
    higher: bool = True
    curve: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def score(self) -> Mean:
        return self.metrics[self.headline]
