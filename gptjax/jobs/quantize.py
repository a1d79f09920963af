"""job=quantize: a model folder with smaller weights, and what that costs on held-out text."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptjax import convert, data, quant
from gptjax.config import Config, enable_compilation_cache
from gptjax.convert import own_folder
from gptjax.data import Corpus
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.quant import METHODS, QuantizeConfig, Quantized
from gptjax.stages.saved_model import corpus_for, held_out
from gptjax.train import Evaluation

FIELD = "quantize.model"


def check(config: Config) -> None:
    """Refuse bits that the method lacks, and calibration without text."""
    settings = config.own["quantize"]
    method = METHODS[settings.method]
    if not settings.model:
        raise UserError(
            f"{FIELD}='' names no folder; give --config.{FIELD}=DIR, a run of job=train, a folder "
            "that job=convert made, or one with config.json and safetensors"
        )
    if settings.bits not in method.bits:
        raise UserError(
            f"quantize.method={settings.method} has no quantize.bits={settings.bits}; give "
            f"{' or '.join(map(str, method.bits))}, or another method"
        )
    if settings.activations and settings.method == "nf4":
        raise UserError(
            "quantize.activations=8 multiplies integers, and the codes of quantize.method=nf4 are "
            "none; set quantize.activations=0 or quantize.method=affine"
        )
    if (method.calibrated or settings.budget_mb) and not settings.calibration_tokens:
        wants = f"method={settings.method}" if method.calibrated else "budget_mb"
        raise UserError(
            f"quantize.{wants} needs calibration text and quantize.calibration_tokens=0; set it, "
            "for example to 32768"
        )


def main(config: Config, folder: Path) -> int:
    """Quantize, save and score; prints a table."""
    settings = config.own["quantize"]
    if (folder / own_folder.CONFIG).exists():
        raise UserError(f"{folder} holds a model already; choose another --workdir or delete it")
    start_backend(config)
    enable_compilation_cache(config)
    model = convert.load(settings.model)
    corpus = corpus_for(config, model, FIELD)
    made = _quantized(model, settings, corpus)
    before, after = (
        held_out(config, model.config, corpus, params, settings.heldout_tokens)
        for params in (model.params, made.params)
    )
    recipe = recipe_of(settings, made, corpus)
    convert.save_model(folder, model.config, made.params, model.kept, model.chat, recipe)
    found = summary(model.params, made, before, after)
    write_json(folder / "quantization.json", {"recipe": recipe, **found})
    _print(found, made, settings, folder)
    return 0


def _quantized(model: convert.Model, settings: QuantizeConfig, corpus: Corpus) -> Quantized:
    wanted = METHODS[settings.method].calibrated or settings.budget_mb > 0.0
    asked = settings.calibration_tokens if wanted else 0
    windows = data.calibration_windows(
        corpus.train, model.config.seq_len, asked, settings.calibration_seed
    )
    bits = quant.uniform_bits(model.config, settings)
    if settings.budget_mb:
        quant.check_plain(model.params)
        fixed, budget = quant.ruled_bits(model.config, settings), int(settings.budget_mb * 1e6)
        bits = quant.choose_bits(model.config, model.params, settings, fixed, windows, budget)
    return quant.quantize(model.config, model.params, settings, bits, windows)


def recipe_of(settings: QuantizeConfig, made: Quantized, corpus: Corpus) -> dict[str, Any]:
    """How the weights were made, as model.json keeps it."""
    names = ("method", "bits", "scales", "group", "activations", "embedding_bits", "rules")
    recipe: dict[str, Any] = {name: getattr(settings, name) for name in names}
    if settings.budget_mb:
        recipe |= {"budget_mb": settings.budget_mb, "bits_of": {r.name: r.bits for r in made.rows}}
    if METHODS[settings.method].calibrated:
        recipe |= {"damping": settings.damping, "activation_order": settings.activation_order}
    if METHODS[settings.method].calibrated or settings.budget_mb:
        recipe["calibration"] = {
            "corpus": corpus.fingerprint,
            "source": str(corpus.report.get("source", "")),
            "seed": settings.calibration_seed,
            "tokens": made.tokens,
        }
    return recipe


def summary(params: Any, made: Quantized, before: Evaluation, after: Evaluation) -> dict[str, Any]:
    """Bytes, bits a weight and losses, before and after."""
    weights = sum(row.weights for row in made.rows)
    held = sum(row.nbytes for row in made.rows)
    return {
        "bytes_before": quant.nbytes(params),
        "bytes_after": quant.nbytes(made.params),
        "bits_per_weight": 8 * held / weights,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "loss_stderr": before.stderr,
        "bits_per_byte_before": before.bits_per_byte,
        "bits_per_byte_after": after.bits_per_byte,
        "matrices": [
            {
                "name": row.name,
                "bits": row.bits,
                "weights": row.weights,
                "bytes": row.nbytes,
                "output_error": row.error,
                "output_error_of_nearest": row.nearest,
            }
            for row in made.rows
        ],
    }


def _print(found: dict[str, Any], made: Quantized, settings: QuantizeConfig, folder: Path) -> None:
    table = Table(title=f"{settings.method}, {folder}")
    for name in ("", "before", "after"):
        table.add_column(name, justify="right" if name else "left")
    table.add_row("bytes", f"{found['bytes_before']:,}", f"{found['bytes_after']:,}")
    table.add_row("bits a weight", "32", f"{found['bits_per_weight']:.2f}")
    losses = (f"{found[f'loss_{when}']:.4f}" for when in ("before", "after"))
    table.add_row("held-out nats per token", *losses)
    scores = (f"{found[f'bits_per_byte_{when}']:.4f}" for when in ("before", "after"))
    table.add_row("bits per byte", *scores)
    Console(width=100).print(table)
    errors = [(row.error, row.nearest) for row in made.rows if row.error is not None]
    if errors:
        better = sum(error < (nearest or 0.0) for error, nearest in errors)
        print(
            f"calibrated on {made.tokens:,} tokens; the output error is below that of rounding to "
            f"nearest on {better} of {len(errors)} matrices"
        )


JOB = Job(main, settings=QuantizeConfig, check=check, trains=True)
