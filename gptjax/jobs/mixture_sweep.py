"""job=mixture_sweep: many mixtures of sources trained small, their law, and the best one checked.

Mixtures are drawn around `data.weights` and trained at all sizes of the plan but the largest. The
law of each source's loss with its size term gives the best mixture; that, the prior and some of the
drawn ones are then trained at the largest size, which the law has not seen.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gptjax.config import Config, check_repeats, load_corpus, make_model, of_data
from gptjax.data import Corpus
from gptjax.engines import run, workdir
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.scaling.data_mixtures.fit import MixtureLaw, fit_mixtures, rank
from gptjax.scaling.data_mixtures.optimum import BestMixture, best_mixture
from gptjax.stages import mixture_law, plan
from gptjax.stages.sweep import corpus_facts
from gptjax.sweeps import Cell, records
from gptjax.sweeps.mixtures import DECIMALS, Weights, cells_of, drawn, rounded

PARAMS = "params_non_embedding_with_head"
LEAST = 3
"""Mixtures for each source that a plan has at least."""
TOTAL = "(loss of runs)"
"""No label of a source, which begins with a letter."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """The mixtures that job=mixture_sweep trains; the law's settings are `config.mixture_law`'s."""

    mixtures: int = setting(
        0, "mixtures that are drawn around data.weights; 0 = four for each source", minimum=0
    )
    concentration: float = setting(
        1.0,
        "of the Dirichlet distribution, for each source; 1 with equal data.weights = uniform over "
        "all mixtures, more = nearer to data.weights",
        above=0.0,
    )
    seed: int = setting(0, "seed of the draws", minimum=0)
    checks: int = setting(
        4, "drawn mixtures trained at the largest size, beside the best and data.weights", minimum=0
    )


def check(config: Config) -> None:
    """Refuse a sweep without sources, with phases, and with too few mixtures for a law."""
    own: Settings = config.own["mixture_sweep"]
    sources = len(config.data.sources)
    if sources < 2:
        raise UserError(
            f"data.sources has {sources} entries, and a mixture two or more; name them, each as "
            "LABEL: KEY=VALUE"
        )
    if config.data.phases:
        raise UserError(
            f"data.phases={config.data.phases} changes the mixture within a run, and "
            "job=mixture_sweep has one for each; leave it out"
        )
    if own.mixtures and own.mixtures < LEAST * sources:
        raise UserError(
            f"mixture_sweep.mixtures={own.mixtures} are too few for a law of {sources} sources; "
            f"give at least {LEAST * sources}"
        )


def main(config: Config, folder: Path) -> int:
    """Train the mixtures, fit, train the check; started again, it does what is missing."""
    corpus = load_corpus(config)
    mixtures = _drawn(config)
    small = _cells(config, corpus, mixtures, largest=False)
    checks = mixtures[: 1 + config.own["mixture_sweep"].checks]
    _cells(config, corpus, checks, largest=True)  # refuses them before anything is trained
    status = _train(config, folder, corpus, small)
    if status:
        return status
    rows = records.read_records(folder, small)
    laws = laws_of(config, corpus, rows)
    fitted = {target: laws[target] for target in laws if target != TOTAL}
    best = _best(config, corpus, fitted, _cells(config, corpus, mixtures[:1], largest=True)[0])
    large = _cells(config, corpus, [*checks, rounded(best.values)], largest=True)
    status = _train(config, folder, corpus, [*small, *large])
    if status:
        return status
    records.write_tables(folder, [*small, *large])
    _report(config, folder, corpus, laws, best, rows, records.read_records(folder, large))
    return 0


def _drawn(config: Config) -> list[Weights]:
    own: Settings = config.own["mixture_sweep"]
    count = own.mixtures or 4 * len(config.data.sources)
    return drawn(config.data.weights, count, own.concentration, own.seed)


def _cells(
    config: Config, corpus: Corpus, mixtures: Sequence[Weights], *, largest: bool
) -> list[Cell]:
    cells = cells_of(
        config.sweep,
        make_model(config, corpus),
        config.optim,
        config.train,
        corpus.fingerprint,
        mixtures,
        largest=largest,
        **of_data(config, corpus),
    )
    check_repeats(config, corpus, *(cell.run for cell in cells))
    return cells


def _train(config: Config, folder: Path, corpus: Corpus, cells: list[Cell]) -> int:
    """Train what has no record; returns the exit status."""
    left = records.open_cells(folder, cells)
    if left:
        run.reach_engine(config)
    workdir.open_workdir(config, folder, cells, corpus.fingerprint)
    write_json(folder / "corpus.json", corpus_facts(config, corpus))
    if not left:
        return 0
    plan.print_plan(config, left, folder)
    return run.train(config, folder, cells)


def shares_of(corpus: Corpus) -> dict[str, float]:
    """The part of each source's held-out loss in the loss of a run, where it has one."""
    tokens = {part.label: part.heldout[1] - part.heldout[0] for part in corpus.parts}
    total = sum(tokens.values())
    shares = {
        part.label: tokens[part.label] / total if part.target is None else part.target
        for part in corpus.parts
    }
    return {label: share for label, share in shares.items() if share > 0}


def laws_of(
    config: Config, corpus: Corpus, rows: Sequence[Mapping[str, Any]]
) -> dict[str, MixtureLaw]:
    """The law of each source's loss that counts, and that of the loss of runs.

    Raises:
      UserError: where too few runs ended.
    """
    own, done = config.own["mixture_law"], [row for row in rows if row["status"] == "done"]
    labels = [part.label for part in corpus.parts]
    weights = np.array([row["run"]["data.weights"] for row in done]).reshape(-1, len(labels))
    losses = {
        label: np.array([row["sources"][f"loss_{label}"] for row in done])
        for label in shares_of(corpus)
    }
    losses[TOTAL] = np.array([row["loss"] for row in done])
    return {
        target: fit_mixtures(
            weights,
            loss,
            labels,
            params=[row[PARAMS] for row in done],
            form=own.form,
            folds=own.folds,
            resamples=own.resamples,
            seed=config.fit.seed,
        )
        for target, loss in losses.items()
    }


def _best(
    config: Config, corpus: Corpus, laws: Mapping[str, MixtureLaw], large: Cell
) -> BestMixture:
    """The best mixture at the largest size, where no source is read more often than it may be."""
    length = large.run.model.seq_len
    leave = np.broadcast_to(config.data.repeats, (len(corpus.parts),))
    caps = leave * np.array(corpus.train_windows(length)) / (large.run.steps * large.run.batch_size)
    caps = np.maximum(caps - len(caps) * 10.0**-DECIMALS, 0.0)  # rounding raises a weight by less
    return best_mixture(
        list(laws.values()),
        np.array(config.data.weights),
        leash=config.own["mixture_law"].leash,
        caps=caps,
        shares=list(shares_of(corpus).values()),
        params=float(records.describe(large)[PARAMS]),
        confidence=config.fit.confidence,
        seed=config.fit.seed,
    )


def checked(
    corpus: Corpus,
    laws: Mapping[str, MixtureLaw],
    best: BestMixture,
    large: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    """The runs of the largest size beside what the law says of them."""
    shares, done = shares_of(corpus), [row for row in large if row["status"] == "done"]
    weights = np.array([row["run"]["data.weights"] for row in done]).reshape(-1, len(corpus.parts))
    params = [row[PARAMS] for row in done]
    total = sum(shares.values())
    predicted = sum(
        share / total * laws[label].predict(weights, params) for label, share in shares.items()
    )
    predicted = np.broadcast_to(predicted, (len(done),))
    measured = np.array([row["loss"] for row in done])
    chosen = np.array([tuple(row) == rounded(best.values) for row in weights.tolist()])
    prior = np.array([tuple(row) == rounded(best.prior) for row in weights.tolist()])
    found = {
        "params": params[0] if params else None,
        "spearman": rank(predicted, measured),
        "mean_error": float(np.mean(measured - predicted)),
        "rows": [
            {"weights": mix.tolist(), "measured": float(y), "predicted": float(p)}
            for mix, y, p in zip(weights, measured, predicted, strict=True)
        ],
    }
    for name, rows in (("best", chosen), ("prior", prior)):
        if rows.any():
            found[name] = float(measured[rows].mean())
    return found


def sentence_of(found: Mapping[str, Any], best: BestMixture) -> str:
    """What the check at the largest size says."""
    if "best" not in found:
        return "The best mixture has no run at the largest size."
    inside = best.run_low <= found["best"] <= best.run_high
    words = (
        f"Held-out check at {found['params']:,} parameters, which the law has not seen: the best "
        f"mixture gave {found['best']:.4f} nats, {'inside' if inside else 'outside'} "
        f"[{best.run_low:.4f}, {best.run_high:.4f}]"
    )
    if "prior" in found:
        words += f"; the prior gave {found['prior']:.4f}"
    words += f"; predictions of {len(found['rows'])} runs rank them with {found['spearman']:.3f}"
    return f"{words} and are {found['mean_error']:+.4f} off on average."


def _report(
    config: Config,
    folder: Path,
    corpus: Corpus,
    laws: Mapping[str, MixtureLaw],
    best: BestMixture,
    small: Sequence[Mapping[str, Any]],
    large: Sequence[Mapping[str, Any]],
) -> None:
    """Write mixture.json, figures and the page; print."""
    from gptjax.report import mixture  # matplotlib is slow to import

    found = mixture_law.content(
        laws, best, runs=len(small), leash=config.own["mixture_law"].leash, ranks={}
    )
    found["check"] = checked(corpus, laws, best, large)
    found["check_sentence"] = sentence_of(found["check"], best)
    write_json(folder / "mixture.json", found)
    total = np.array([row["loss"] for row in small if row["status"] == "done"])
    figures = [
        mixture.weights_figure(best),
        mixture.predicted_figure(laws[TOTAL], total, "loss of runs"),
        mixture.heldout_figure(found["check"]),
    ]
    page = mixture.build(
        folder,
        found,
        figures,
        config.report,
        title=config.general.experiment.replace("_", " "),
        facts=corpus_facts(config, corpus),
    )
    mixture_law.show(laws, best, {}, [found["check_sentence"], f"report: {page}"])


JOB = Job(main, Settings, check, many_runs=True, trains=True)
"""The sweep over mixtures, with the settings of its plan."""
