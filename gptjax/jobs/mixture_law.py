"""job=mixture_law: the law of the loss by mixture of sources, and the best mixture."""

import dataclasses
from pathlib import Path

import numpy as np

from gptjax.config import Config
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.scaling.data_mixtures.fit import MixtureLaw, fit_mixtures, rank, replanned
from gptjax.scaling.data_mixtures.forms import MIXTURE_FORMS
from gptjax.scaling.data_mixtures.optimum import BestMixture, best_mixture
from gptjax.scaling.tables.mixtures import MixtureRuns, read_mixtures
from gptjax.stages import mixture_law


@dataclasses.dataclass(frozen=True)
class Settings:
    """The runs that job=mixture_law fits, and what its best mixture may be."""

    table: str = setting("", "CSV, JSON lines or Parquet with one mixture a row")
    losses: str = setting("", "a second table with the losses; '' = they are in the first")
    key: str = setting("", "column that joins the two tables; '' = row by row")
    weights: str = setting("weight_", "what the names of the columns of weights begin with")
    targets: tuple[str, ...] = setting((), "columns of losses, in nats; several are averaged")
    target_shares: tuple[float, ...] = setting(
        (), "the part of each target in the average; () = equal", minimum=0.0
    )
    params: str = setting("", "column of model sizes, for a law with a size term; '' = none")
    form: str = setting(
        "auto",
        "form of the law; auto = the smallest error in cross-validation",
        choices=("auto", *MIXTURE_FORMS),
    )
    folds: int = setting(8, "folds of the cross-validation", minimum=2)
    resamples: int = setting(200, "refits to resampled runs, for intervals", minimum=0)
    prior: tuple[float, ...] = setting(
        (), "weights where the leash holds; () = the mean of the mixtures", minimum=0.0
    )
    leash: float = setting(
        0.01, "nats that a nat of Kullback-Leibler divergence from the prior costs", minimum=0.0
    )
    available: tuple[float, ...] = setting(
        (), "tokens that each source has; () = as many as are wanted", above=0.0
    )
    tokens: float = setting(0.0, "tokens of the run that is planned, beside `available`", minimum=0)
    table_tokens: float = setting(
        0.0,
        "tokens of each run in the table, for a repetition term: the law then knows what the "
        "tokens of `available` are worth read again; 0 = none",
        minimum=0.0,
    )
    repeats: float = setting(4.0, "how often a source may be read", minimum=1.0)
    heldout_table: str = setting("", "mixtures of larger models that the law must rank")
    heldout_losses: str = setting("", "their losses; '' = they are in that table")


def check(config: Config) -> None:
    """Refuse tables and columns that are not named, and a cap without a length."""
    own: Settings = config.own["mixture_law"]
    if not own.table:
        raise UserError(
            "mixture_law.table='' names no table; give --config.mixture_law.table=FILE.csv"
        )
    if not own.targets:
        raise UserError(
            "mixture_law.targets=() names no column of losses; give "
            "--config.mixture_law.targets=NAME"
        )
    if own.target_shares and len(own.target_shares) != len(own.targets):
        raise UserError(
            f"mixture_law.target_shares has {len(own.target_shares)} entries and "
            f"mixture_law.targets {len(own.targets)}; give one of each"
        )
    if own.table_tokens and not own.available:
        raise UserError(
            f"mixture_law.table_tokens={own.table_tokens:g} asks what repeated tokens are worth, "
            "and mixture_law.available=() does not say which are repeated; give the tokens of each "
            "source"
        )
    if bool(own.available) != bool(own.tokens):
        raise UserError(
            f"mixture_law.available={own.available} and mixture_law.tokens={own.tokens} belong "
            "together; give both, or neither"
        )


def main(config: Config, folder: Path) -> int:
    """Fit, find the best mixture, and write mixture.json and figures."""
    own: Settings = config.own["mixture_law"]
    runs = _read(own, own.table, own.losses)
    laws = {
        target: fit_mixtures(
            runs.weights_RK,
            runs.losses[target],
            runs.sources,
            params=runs.params,
            once=_once(own, runs),
            form=own.form,
            folds=own.folds,
            resamples=own.resamples,
            seed=config.fit.seed,
        )
        for target in own.targets
    }
    planned = list(laws.values())
    if own.table_tokens:
        planned = [replanned(law, np.array(own.available) / own.tokens) for law in planned]
    best = best_mixture(
        planned,
        _prior(own, runs),
        leash=own.leash,
        caps=_caps(own, runs),
        shares=own.target_shares,
        params=None if runs.params is None else float(runs.params.max()),
        confidence=config.fit.confidence,
        seed=config.fit.seed,
    )
    ranks = _heldout(own, laws)
    found = mixture_law.content(laws, best, runs=len(runs), leash=own.leash, ranks=ranks)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "mixture.json", found)
    _draw(config, folder, laws, runs, best)
    mixture_law.show(laws, best, ranks, [str(folder / "mixture.json")])
    return 0


def _draw(
    config: Config,
    folder: Path,
    laws: dict[str, MixtureLaw],
    runs: MixtureRuns,
    best: BestMixture,
) -> None:
    """The best weights, and the predictions of the first target."""
    from gptjax.report import mixture  # matplotlib is slow to import

    target = next(iter(laws))
    predicted = mixture.predicted_figure(laws[target], runs.losses[target], target)
    mixture.draw(folder, [mixture.weights_figure(best), predicted], config.report)


def _read(own: Settings, table: str, losses: str) -> MixtureRuns:
    return read_mixtures(
        table, losses, key=own.key, prefix=own.weights, targets=own.targets, params=own.params
    )


def _prior(own: Settings, runs: MixtureRuns) -> np.ndarray:
    if not own.prior:
        return runs.weights_RK.mean(0)
    _check_count("prior", own.prior, runs)
    if abs(sum(own.prior) - 1) > 0.01:
        raise UserError(
            f"mixture_law.prior sums to {sum(own.prior):.4g}; give weights that sum to 1"
        )
    return np.array(own.prior)


def _caps(own: Settings, runs: MixtureRuns) -> np.ndarray | None:
    if not own.available:
        return None
    _check_count("available", own.available, runs)
    return np.array(own.available) * own.repeats / own.tokens


def _once(own: Settings, runs: MixtureRuns) -> np.ndarray | None:
    """The share of a run of the table that reads each source once; None: no repetition term."""
    if not own.table_tokens:
        return None
    _check_count("available", own.available, runs)
    return np.array(own.available) / own.table_tokens


def _check_count(name: str, values: tuple, runs: MixtureRuns) -> None:
    if len(values) != len(runs.sources):
        raise UserError(
            f"mixture_law.{name} has {len(values)} entries and the table {len(runs.sources)} "
            f"sources ({', '.join(runs.sources)}); give one for each"
        )


def _heldout(own: Settings, laws: dict[str, MixtureLaw]) -> dict[str, float]:
    """Spearman's correlation of each target, on the mixtures of larger models."""
    if not own.heldout_table:
        return {}
    runs = _read(own, own.heldout_table, own.heldout_losses)
    return {
        target: rank(law.predict(runs.weights_RK, runs.params), runs.losses[target])
        for target, law in laws.items()
    }


JOB = Job(main, Settings, check)
