"""job=predict: read a saved law and say what budgets buy."""

import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.files import read_json
from gptjax.scaling.laws.predict import predict_saved
from gptjax.scaling.laws.saved import Laws


def main(config: Config, folder: Path) -> int:
    """Print N*, D* and the loss at each of `config.flops`, with intervals; writes nothing."""
    place = f"config.laws={config.general.laws}"
    laws = Laws.from_json(read_json(Path(config.general.laws)), place)
    table = Table(title=f"Predicted by {config.general.laws}", title_justify="left")
    for name in ("law", "FLOPs", "params", "tokens", "tokens/param", "loss, nats per token"):
        table.add_column(name, justify="left" if name == "law" else "right")
    entries = [entry for flops in config.general.flops for entry in predict_saved(laws, flops)]
    if not entries:
        raise UserError(
            f"config.laws={config.general.laws} holds no law of params and tokens, which a "
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
    Console(width=None if sys.stdout.isatty() else 160).print(table)
    return 0


def _interval(entry: dict, name: str, form: str) -> str:
    value, low, high = (entry.get(f"{name}{end}") for end in ("", "_low", "_high"))
    if value is None:
        return "–"
    if low is None or high is None:
        return f"{value:{form}}"
    return f"{value:{form}} [{low:{form}}, {high:{form}}]"
