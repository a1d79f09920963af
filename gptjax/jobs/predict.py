"""job=predict: optimal parameters, tokens and loss of budgets, from a saved law."""

import dataclasses
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import user_path
from gptjax.job import Job
from gptjax.scaling.laws.predict import predict_loss, predict_saved
from gptjax.scaling.laws.saved import Laws
from gptjax.stages.fit import read_laws


@dataclasses.dataclass(frozen=True)
class Settings:
    """The law that job=predict reads, and the budgets that it predicts for."""

    laws: str = setting("", "laws.json of an earlier fit")
    flops: tuple[float, ...] = setting((), "budgets in training FLOPs", above=0.0)
    params: tuple[float, ...] = setting(
        (), "sizes whose loss is predicted, each with the entry of predict.tokens", above=0.0
    )
    tokens: tuple[float, ...] = setting((), "training tokens of those sizes", above=0.0)


def check(config: Config) -> None:
    """Refuse a prediction from no law or for no budget."""
    asked: Settings = config.own["predict"]
    if not asked.laws:
        raise UserError("predict.laws='' names no law; give --config.predict.laws=RUN/laws.json")
    if len(asked.params) != len(asked.tokens):
        raise UserError(
            f"predict.params has {len(asked.params)} entries and predict.tokens "
            f"{len(asked.tokens)}; give one of each for every model"
        )
    if not asked.flops and not asked.params:
        raise UserError(
            "predict.flops=() names no budget; give --config.predict.flops=1e24, or "
            "predict.params with predict.tokens"
        )


def main(config: Config, folder: Path) -> int:
    """Print N*, D* and the loss at each budget, with intervals; writes nothing."""
    asked: Settings = config.own["predict"]
    place = f"predict.laws={asked.laws}"
    laws = Laws.from_json(read_laws(user_path(asked.laws)), place)
    table = Table(title=f"Predicted by {asked.laws}", title_justify="left")
    loss = f"loss, {laws.conventions.get('loss') or 'nats per token'}"
    for name in ("law", "FLOPs", "params", "tokens", "tokens/param", loss):
        table.add_column(name, justify="left" if name == "law" else "right")
    entries = [entry for flops in asked.flops for entry in predict_saved(laws, flops)]
    models = zip(asked.params, asked.tokens, strict=True)
    entries += [entry for model in models for entry in predict_loss(laws, *model)]
    if not entries:
        raise UserError(
            f"predict.laws={asked.laws} holds no law of params and tokens, which a "
            "prediction needs; fit one of fit.approaches"
        )
    for entry in entries:
        table.add_row(
            entry["law"],
            f"{entry['flops']:.3g}",
            _interval(entry, "params", ".3g"),
            _interval(entry, "tokens", ".3g"),
            f"{entry['tokens_per_param']:.3g}",
            _interval(entry, "loss", ".4g"),
        )
    console = Console(width=None if sys.stdout.isatty() else 160)
    console.print(table)
    for line in dict.fromkeys(entry["sentence"] for entry in entries if entry["sentence"]):
        console.print(f"Note: {line}", markup=False, highlight=False)
    for name in dict.fromkeys(entry["law"] for entry in entries if entry.get("loss") is None):
        reason = "its curves give sizes and tokens alone"
        if name == "isoflop":
            reason = "it takes four valleys or more, fitted by this version"
        console.print(f"Note: {name} has no law of the loss: {reason}.", markup=False)
    for line in (laws.verdict or {}).get("doubts") or []:
        console.print(f"Doubt: {line}", markup=False, highlight=False)
    return 0


def _interval(entry: dict, name: str, form: str) -> str:
    value, low, high = (entry.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"


JOB = Job(main, Settings, check, writes=False)
