"""What a reviewer would ask: would other runs, other counting, another form say the same?"""

import dataclasses
import functools
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import PARAMS_CONVENTIONS, FitConfig
from gptjax.scaling.fit.fit import check_runs, fit_runs
from gptjax.scaling.fit.holdout import hold_out, without_decades, without_largest
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms import form_named
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs, best_of_each, prepare, seed_noise
from gptjax.scaling.tables.table import as_table
from gptjax.threads import in_threads

SPLITS = {"third_decade": 1 / 3, "half_decade": 0.5}
RESAMPLES = 200  # enough for a table of checks
SIZE_BINS = 6
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
    seed_noise = noise_floor(runs)
    places = [(split, name) for split in masks for name in forms]
    held = in_threads(
        [
            functools.partial(hold_out, runs, form_named(name), masks[split], config)
            for split, name in places
        ]
    )
    rows = [
        {"split": split, "form": name}
        | ({"reason": str(one)} if isinstance(one, UserError) else _score(one, seed_noise))
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


def drift(runs: Runs, law: Fit, flops: float) -> list[dict[str, Any]]:
    """How the law moves when the lowest budget, or one band of sizes, is left out."""
    rows = [_drift_row("nothing", law, flops)]
    masks: dict[str, np.ndarray] = {}
    if len(runs.budgets) > 2:
        low = runs.budgets[0]
        masks[f"lowest budget ({low:.3g} FLOPs)"] = runs.budget > low
    edges = np.unique(runs.params)
    if len(edges) > SIZE_BINS:
        edges = np.quantile(runs.params, np.linspace(0, 1, SIZE_BINS + 1))[:-1]
    for i, low in enumerate(edges):
        high = edges[i + 1] if i + 1 < len(edges) else np.inf
        end = f"to {high:.3g}" if np.isfinite(high) else "and more"
        masks[f"sizes {low:.3g} {end}"] = ~((runs.params >= low) & (runs.params < high))
    config = dataclasses.replace(law.config, resamples=0)
    for name, keep in masks.items():
        try:
            rest = runs.take(keep)
            check_runs(rest, law.form)
            rows.append(_drift_row(name, fit_runs(rest, law.form, config, quick=True), flops))
        except UserError as error:
            rows.append({"left_out": name, "reason": str(error)})
    return rows


def _drift_row(name: str, law: Fit, flops: float) -> dict[str, Any]:
    best = law.optimum(flops)
    values = {key: interval.value for key, interval in law.params.items()}
    return {
        "left_out": name,
        "n_runs": len(law.runs),
        **values,
        "flops": flops,
        "params_at_prediction": best.params.value,
        "loss_at_prediction": best.loss.value,
        "reason": None,
    }


def convention_table(table: Any, form: Form, config: FitConfig) -> list[dict[str, Any]]:
    """The same fit under each way to count parameters and FLOPs that the table allows."""
    table = as_table(table)
    known = [c for c in PARAMS_CONVENTIONS if f"params_{c}" in table]
    if config.column_params or not known:
        known = [config.params_convention]
    exact = config.column_flops or "flops" in table or "C" in table
    counted = [
        dataclasses.replace(
            config,
            params_convention=params,
            flops_convention=flops,
            resamples=min(config.resamples, RESAMPLES),
        )
        for params in known
        for flops in (("exact", "6nd") if exact else ("6nd",))
    ]
    return in_threads([functools.partial(_convention_row, table, form, one) for one in counted])


def _convention_row(table: Any, form: Form, config: FitConfig) -> dict[str, Any]:
    row: dict[str, Any] = {"params": config.params_convention, "flops": config.flops_convention}
    try:
        runs = best_of_each(prepare(table, config), config.settings)
        check_runs(runs, form)
        law = fit_runs(runs, form, config, quick=True)
    except UserError as error:
        return {**row, "note": str(error)}
    target = float(runs.flops.max() * config.extrapolate)
    best = law.optimum(target)
    row |= {name: interval.to_json() for name, interval in law.params.items()}
    row |= {"target_flops": target, "holdout_error": _holdout_error(runs, law, config), "note": ""}
    for name in ("params", "tokens", "loss"):
        key = "loss" if name == "loss" else f"{name}_opt"
        row[key] = getattr(best, name).to_json()
    return row


def _holdout_error(runs: Runs, law: Fit, config: FitConfig) -> float:
    try:
        quick = dataclasses.replace(config, resamples=0)
        held = hold_out(
            runs, law.form, without_largest(runs, max(config.holdout_budgets, 1)), quick
        )
    except UserError:
        return float("nan")
    return float(abs(held.relative_error[np.argmin(held.heldout.loss)]))
