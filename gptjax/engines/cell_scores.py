"""What is measured on a cell's weights beside its loss when it has been trained."""

from collections.abc import Callable
from typing import Any

from gptjax.config import Config
from gptjax.engines import quantized_scores, task_scores
from gptjax.train import RunSpec, Session

Scored = dict[str, dict[str, float]]

SCORERS: dict[str, Callable[[Config], Any]] = {
    "quantized": quantized_scores.scorer,
    "scores": task_scores.scorer,
}
"""What makes a scorer of a config, by the key of the record that its numbers stand under."""


def scorer(config: Config) -> Callable[[Session, RunSpec, Any], Scored] | None:
    """(session, run, parameters) → what records keep, or None where nothing is asked for."""
    made = {name: make(config) for name, make in SCORERS.items()}
    asked = {name: one for name, one in made.items() if one is not None}
    if not asked:
        return None
    return lambda session, spec, params: {
        name: one(session, spec, params) for name, one in asked.items()
    }
