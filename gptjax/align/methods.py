"""Methods of fine-tuning: each reads its kind of examples and says what is minimised on them."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from gptjax.align import preferences, reward_model
from gptjax.align.encoding import Item
from gptjax.align.examples import Example, read_answered, read_preferences
from gptjax.align.feeds import ExampleFeed, batch_of
from gptjax.align.packing import one_by_one, packed
from gptjax.models import ModelConfig
from gptjax.train import Objective, RunSpec, next_token

if TYPE_CHECKING:
    from gptjax.align.config import FinetuneConfig
    from gptjax.align.session import Task


@dataclasses.dataclass(frozen=True)
class Start:
    """What a method starts from.

    Attributes:
      config, params: of the model; the parameters are host arrays.
      settings: of `finetune`.
      spec: of the run.
      folder: the workdir, for what is computed once.
      room: tokens of a row.
    """

    config: ModelConfig
    params: Any
    settings: "FinetuneConfig"
    spec: RunSpec
    folder: Path
    room: int


@dataclasses.dataclass(frozen=True)
class Method:
    """One choice of `finetune.method`.

    Attributes:
      read: path → the examples of its kind.
      feed: (start, the encoded examples of one side) → their feed.
      objective: settings → (spec → what is minimised).
      params: start → the parameters that a run begins with, adapters apart.
      ends: tokens that a row needs beside those of an example.
      report: (task, spec, parameters) → what is measured at the end, for `result.json`.
    """

    read: Callable[[str], list[Example]]
    feed: Callable[[Start, Sequence[Item]], ExampleFeed]
    objective: Callable[["FinetuneConfig"], Callable[[RunSpec], Objective]]
    params: Callable[[Start], Any] = lambda start: start.params
    ends: int = 0
    report: Callable[["Task", RunSpec, Any], dict[str, Any]] = lambda task, spec, params: {}


METHODS: dict[str, Method] = {}
"""The choices of `finetune.method`."""


def _rows(start: Start, items: Sequence[Item]) -> ExampleFeed:
    texts = [text for item in items for text in item.texts]
    rows = packed(texts, start.room) if start.settings.packing else one_by_one(texts, start.room)
    return ExampleFeed(rows, batch_of)


def _headed(start: Start) -> Any:
    key = jax.random.key(start.spec.seed)
    return reward_model.with_head(start.params, start.config.width, key)


def _calibration(task: "Task", spec: RunSpec, params: Any) -> dict[str, Any]:
    rows = task.heldout.arrays
    better, worse = (
        reward_model.of_rows(spec, params, ExampleFeed(side, batch_of)) for side in rows[:2]
    )
    return reward_model.calibration(better - worse)


def _preference(settings: "FinetuneConfig") -> Callable[[RunSpec], Objective]:
    return lambda spec: preferences.preference(spec, settings.dpo)


def _ranking(settings: "FinetuneConfig") -> Callable[[RunSpec], Objective]:
    return lambda spec: reward_model.ranking(spec, settings.reward)


METHODS["sft"] = Method(read_answered, _rows, lambda settings: next_token)
METHODS["dpo"] = Method(read_preferences, preferences.pair_feed, _preference)
METHODS["reward"] = Method(
    read_preferences, reward_model.scored_pair_feed, _ranking, _headed, 1, _calibration
)
