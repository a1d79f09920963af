"""job=ensemble: several model folders as one, fitted on held-out text and scored on the rest."""

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from gptjax import convert, data, ops
from gptjax.config import Config, enable_compilation_cache
from gptjax.convert import own_folder
from gptjax.engines.devices import start_backend
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.infer.ensembles import COMBINATIONS, Ensemble, check_members, observe
from gptjax.infer.soups import SOUPS, check_aligned, check_shapes
from gptjax.job import Job
from gptjax.quant import check_plain
from gptjax.stages.saved_model import corpus_for

BATCH = 8


@dataclasses.dataclass(frozen=True)
class Settings:
    """Several models as one."""

    models: tuple[str, ...] = setting(
        (), "folders of the members, in their order for ema_soup and weighted_soup"
    )
    combination: str = setting(
        "em",
        "of predictions: uniform, weights by EM, weights by EM for each token before (by_token), "
        "or a weighted sum of logarithms (log_linear); of parameters: soup, weighted_soup, "
        "ema_soup, greedy_soup, which write one model",
        choices=(*COMBINATIONS, *SOUPS),
    )
    weights: tuple[float, ...] = setting((), "weighted_soup: one for each member", minimum=0.0)
    decay: float = setting(0.8, "ema_soup: weight of a member over that of the next", above=0.0)
    fit_tokens: int = setting(4096, "held-out tokens that weights are fitted on", minimum=1)
    score_tokens: int = setting(16384, "held-out tokens after them that are scored", minimum=1)


def check(config: Config) -> None:
    """Refuse a lone member, and weights that are not one for each."""
    settings = config.own["ensemble"]
    if len(settings.models) < 2:
        raise UserError(
            f"ensemble.models={settings.models} names {len(settings.models)} folder(s); give two "
            "or more, as --config.ensemble.models=DIR,DIR"
        )
    wanted = settings.combination == "weighted_soup"
    if wanted != bool(settings.weights) or (wanted and not _fits(settings)):
        raise UserError(
            f"ensemble.weights={settings.weights} is for ensemble.combination=weighted_soup, one "
            f"number for each of {len(settings.models)} members with a sum above zero"
        )


def _fits(settings: Settings) -> bool:
    return len(settings.weights) == len(settings.models) and sum(settings.weights) > 0.0


def main(config: Config, folder: Path) -> int:
    """Combine, score, write ensemble.json, and the model of a soup; prints a table."""
    settings = config.own["ensemble"]
    start_backend(config)
    enable_compilation_cache(config)
    loaded = [convert.load(name) for name in settings.models]
    corpus = corpus_for(config, loaded[0], "ensemble.models")
    members = tuple((model.config, model.params) for model in loaded)
    check_members(members, settings.models)
    seq_len = min(model.config.seq_len for model in loaded)
    fitted, scored = _windows(corpus.heldout, seq_len, settings)
    run = _soup if settings.combination in SOUPS else _combined
    found = run(settings, loaded, fitted, scored, folder)
    alone = [_loss(Ensemble((member,), "uniform", np.ones(1)), scored) for member in members]
    found = {
        "combination": settings.combination,
        "members": dict(zip(settings.models, alone, strict=True)),
        **found,
        "tokens_scored": int(scored[:, 1:].size),
    }
    if settings.combination in SOUPS:
        check_aligned(found["loss"], alone)
        model = found.pop("model")
        convert.save_model(folder, loaded[0].config, model, loaded[0].kept, loaded[0].chat)
    write_json(folder / "ensemble.json", found)
    _print(found)
    return 0


def _windows(heldout: Any, seq_len: int, settings: Settings) -> tuple[np.ndarray, np.ndarray]:
    """Windows to fit on, and later ones to score on, [n, T + 1]."""
    count = data.num_windows(len(heldout), seq_len)
    fit = max(1, min(settings.fit_tokens // seq_len, count // 2))
    score = max(1, min(settings.score_tokens // seq_len, count - fit))
    if count < 2:
        raise UserError(
            f"the held-out part has {count} window of {seq_len} tokens, and an ensemble is fitted "
            "on some and scored on others; raise data.heldout_fraction"
        )
    starts = np.arange(fit + score)[:, None] * seq_len + np.arange(seq_len + 1)
    rows = np.asarray(heldout)[starts].astype(np.int32)
    return rows[:fit], rows[fit:]


def _combined(
    settings: Settings, loaded: Any, fitted: np.ndarray, scored: np.ndarray, folder: Path
) -> dict[str, Any]:
    members = tuple((model.config, model.params) for model in loaded)
    weights = COMBINATIONS[settings.combination].fit(observe(members, fitted))
    ensemble = Ensemble(members, settings.combination, weights)
    return {"weights": weights, "loss": _loss(ensemble, scored)}


def _soup(
    settings: Settings, loaded: Any, fitted: np.ndarray, scored: np.ndarray, folder: Path
) -> dict[str, Any]:
    for model in loaded:
        check_plain(model.params)
    if (folder / own_folder.CONFIG).exists():
        raise UserError(f"{folder} holds a model already; choose another --workdir or delete it")
    check_shapes([model.params for model in loaded], settings.models)
    config = loaded[0].config

    def loss(params: Any, rows: np.ndarray = fitted) -> float:
        return _loss(Ensemble(((config, params),), "uniform", np.ones(1)), rows)

    model, weights = SOUPS[settings.combination]([one.params for one in loaded], loss, settings)
    return {"weights": weights, "loss": loss(model, scored), "model": model}


def _loss(ensemble: Ensemble, windows: np.ndarray) -> float:
    """Mean nats per token."""
    sums = []
    for start in range(0, len(windows), BATCH):
        rows = jnp.asarray(windows[start : start + BATCH])
        log_p_BTV = ensemble.log_probs(rows[:, :-1])
        sums.append(float(jnp.sum(ops.cross_entropy(log_p_BTV, rows[:, 1:]))))
    return sum(sums) / windows[:, 1:].size


def _print(found: dict[str, Any]) -> None:
    table = Table(title=f"{found['combination']}, {found['tokens_scored']:,} held-out tokens")
    table.add_column("model")
    table.add_column("nats per token", justify="right")
    table.add_column("weight", justify="right")
    weights = np.asarray(found["weights"])
    weights = weights if weights.ndim == 1 else weights.mean(axis=0)
    for (name, loss), weight in zip(found["members"].items(), weights, strict=True):
        table.add_row(name, f"{loss:.4f}", f"{weight:.3f}")
    table.add_row(found["combination"], f"{found['loss']:.4f}", "")
    Console(width=100).print(table)


JOB = Job(main, settings=Settings, check=check, trains=True)
