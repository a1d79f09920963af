"""job=forecast: scores of models that were not run, from a table of scores of smaller ones."""

import dataclasses
import functools
from pathlib import Path

from gptjax.config import Config
from gptjax.errors import UserError, nearest
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.job import Job
from gptjax.scaling.tables.table import Table
from gptjax.scaling.tasks import LAWS, forecast, read_scores
from gptjax.stages import task_forecasts


@dataclasses.dataclass(frozen=True)
class Settings:
    """The table of scores that job=forecast reads, and the models that it forecasts."""

    table: str = setting("", "CSV, JSON lines or Parquet with params, tokens and scores of tasks")
    params: tuple[float, ...] = setting(
        (), "sizes that are forecast, each with the entry of forecast.tokens", above=0.0
    )
    tokens: tuple[float, ...] = setting((), "training tokens of those sizes", above=0.0)
    tasks: tuple[str, ...] = setting((), "tasks that are forecast; (): all of the table")
    laws: tuple[str, ...] = setting(
        (), f"laws that are averaged: {', '.join(LAWS)}; (): all that the table has columns for"
    )
    score_suffix: str = setting("_acc", "what the columns of scores end in, after the task's name")
    loss_suffix: str = setting("_bpb", "the same of the losses of right answers")
    loss: str = setting("", "column of the model's own loss; '': loss, or one that ends in _loss")
    chance: tuple[str, ...] = setting(
        (), "scores of a guess, as task=0.25, where the task is not a published one"
    )
    fit_below: float = setting(
        0.0,
        "fit sizes up to this one alone, and compare larger runs with their forecasts; 0: all",
        minimum=0.0,
    )
    confidence: float = setting(0.95, "level of the intervals", above=0.5, below=1.0)
    resamples: int = setting(100, "of the runs, for the intervals", minimum=10, maximum=10_000)


def check(config: Config) -> None:
    """Refuse a table that is not there, no model, and unknown laws."""
    asked: Settings = config.own["forecast"]
    if not asked.table:
        raise UserError("forecast.table='' names no table; give --config.forecast.table=FILE.csv")
    if not user_path(asked.table).is_file():
        raise UserError(f"forecast.table={asked.table} is not a file; give the path of a table")
    if not asked.params or len(asked.params) != len(asked.tokens):
        raise UserError(
            f"forecast.params has {len(asked.params)} entries and forecast.tokens "
            f"{len(asked.tokens)}; give one of each for every model"
        )
    for name in asked.laws:
        if name not in LAWS:
            raise UserError(f"forecast.laws={name} is no law of scores; {nearest(name, LAWS)}")
    _chance(asked)


def main(config: Config, folder: Path) -> int:
    """Write forecast.json and a figure, print the table."""
    asked: Settings = config.own["forecast"]
    read = functools.partial(
        read_scores,
        Table.read(asked.table),
        asked.tasks,
        score_suffix=asked.score_suffix,
        loss_suffix=asked.loss_suffix,
        loss=asked.loss,
        chance=_chance(asked),
    )
    largest = asked.fit_below or float("inf")
    scores = read()
    found = forecast(
        read(params_below=largest),
        list(zip(asked.params, asked.tokens, strict=True)),
        laws=asked.laws,
        confidence=asked.confidence,
        resamples=asked.resamples,
    )
    task_forecasts.show(config, folder, scores, found, scores.params > largest)
    return 0


def _chance(asked: Settings) -> dict[str, float]:
    found = {}
    for entry in asked.chance:
        task, _, value = entry.partition("=")
        try:
            found[task] = float(value)
        except ValueError:
            found[task] = -1.0
        if not 0.0 <= found[task] < 1.0:
            raise UserError(f"forecast.chance={entry} is no share of a task; give task=0.25")
    return found


JOB = Job(main, Settings, check)
