"""Comparison of law forms: each on runs that were held out, and over a growing distance.

A form that describes the runs may still forecast badly, so forms are judged by what they forecast.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.holdout import hold_out, without_decades, without_largest
from gptjax.scaling.forms import form_named
from gptjax.scaling.tables.runs import Runs, seed_noise
from gptjax.threads import in_threads

SPLITS = {"third_decade": 1 / 3, "half_decade": 0.5}
RESAMPLES = 100  # enough for a table of scores
MOST_CUTS = 8  # budgets from which on rollouts cut by FLOPs instead
ROLLOUTS = 4


def noise_floor(runs: Runs) -> float:
    """Relative scatter below which no law can predict: seeds, else standard errors, else NaN."""
    floor = seed_noise(runs)
    if np.isfinite(floor) and floor > 0:
        return floor
    relative = runs.stderr / runs.loss
    relative = relative[np.isfinite(relative) & (relative > 0)]
    return float(np.median(relative)) if len(relative) else float("nan")


def scores(runs: Runs, forms: tuple[str, ...], config: FitConfig) -> list[dict[str, Any]]:
    """Every form on the largest FLOPs held out, best first within a split.

    `log_likelihood` is the mean log density of held-out log losses with the noise floor (or, when
    that is larger or unknown, the fit's own scatter); `floor` is what a perfect law would expect.
    """
    config = dataclasses.replace(config, resamples=min(config.resamples, RESAMPLES))
    masks = _masks(runs)
    floor = noise_floor(runs)
    places = [(split, name) for split in masks for name in forms]
    held = in_threads(
        [
            functools.partial(hold_out, runs, form_named(name), masks[split], config)
            for split, name in places
        ]
    )
    rows = [
        {"split": split, "form": name}
        | ({"reason": str(one)} if isinstance(one, UserError) else _score(one, floor))
        for (split, name), one in zip(places, held, strict=True)
    ]
    order = list(masks)
    return sorted(
        rows, key=lambda row: (order.index(row["split"]), -row.get("log_likelihood", -np.inf))
    )


def _masks(runs: Runs) -> dict[str, np.ndarray]:
    """The runs kept by each split; splits that coincide share one row, named by both."""
    masks = {name: without_decades(runs, decades) for name, decades in SPLITS.items()}
    if len(runs.budgets) > 1:
        masks["largest_budget"] = without_largest(runs, 1)
    names: dict[bytes, list[str]] = {}
    for name, mask in masks.items():
        names.setdefault(mask.tobytes(), []).append(name)
    return {" = ".join(same): masks[same[0]] for same in names.values()}


def _score(held: Any, seed_noise: float) -> dict[str, Any]:
    own = float(np.sqrt(np.mean(held.law.noise**2)))
    scale = max(own, seed_noise if np.isfinite(seed_noise) else 0.0, 1e-9)
    error = np.abs(held.relative_error)
    z = np.log(held.heldout.loss / held.predicted) / scale
    constant = -np.log(scale * np.sqrt(2 * np.pi))
    return {
        "n_train": len(held.law.runs),
        "n_heldout": len(held.heldout),
        "mean_relative_error": float(np.mean(error)),
        "max_relative_error": float(np.max(error)),
        "log_likelihood": float(np.mean(-0.5 * z**2) + constant),
        "floor": float(constant - 0.5),
        "noise": scale,
        "seed_noise": seed_noise,
        "coverage": held.coverage,
        "reason": None,
    }


def rollout(runs: Runs, forms: tuple[str, ...], config: FitConfig) -> list[dict[str, Any]]:
    """The best run of the largest budget predicted from ever smaller budgets, by each form.

    `factor` is the largest FLOPs over the largest that were fitted, `error` the log of predicted
    over measured; a step that cannot identify the form has the reason instead.
    """
    top = np.flatnonzero(runs.budget == runs.budgets[-1])
    best = int(top[np.argmin(runs.loss[top])])
    cuts = runs.budgets[1:] if len(runs.budgets) <= MOST_CUTS else _spread_cuts(runs)
    quick = dataclasses.replace(config, resamples=0)
    places = [(form, float(cut)) for form in forms for cut in cuts[::-1][:ROLLOUTS]]
    held = in_threads(
        [
            functools.partial(hold_out, runs, form_named(form), runs.budget < cut, quick)
            for form, cut in places
        ]
    )
    rows = []
    for (form, cut), one in zip(places, held, strict=True):
        fitted = runs.flops[runs.budget < cut]
        row: dict[str, Any] = {"form": form, "n_train": len(fitted), "error": None, "reason": None}
        row["factor"] = float(runs.flops[best] / fitted.max()) if len(fitted) else None
        if isinstance(one, UserError):
            rows.append(row | {"reason": str(one)})
            continue
        place = int(np.flatnonzero(one.heldout.cell == runs.cell[best])[0])
        rows.append(row | {"error": float(np.log1p(one.relative_error[place]))})
    return rows


def _spread_cuts(runs: Runs) -> np.ndarray:
    """A few cuts even in log FLOPs, for tables whose runs share no budgets."""
    return np.geomspace(runs.budgets[0], runs.budgets[-1], MOST_CUTS)[1:]
