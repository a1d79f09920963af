"""Diagnostics of a fit: how far other runs and other ways of counting change what it says."""

import dataclasses
import functools
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FLOPS_CONVENTIONS, PARAMS_CONVENTIONS, FitConfig
from gptjax.scaling.fit.fit import check_runs, fit_runs
from gptjax.scaling.fit.holdout import hold_out, without_largest
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs, best_of_each, prepare
from gptjax.scaling.tables.table import as_table
from gptjax.threads import in_threads

RESAMPLES = 200  # enough for a table of checks
SIZE_BINS = 6


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


def countings(table: Any, config: FitConfig) -> list[FitConfig]:
    """The config under each way to count parameters and FLOPs that the table allows."""
    table = as_table(table)
    known = [c for c in PARAMS_CONVENTIONS if f"params_{c}" in table]
    if config.column_params or not known:
        known = [config.params_convention]
    exact = config.column_flops or "flops" in table or "C" in table
    return [
        dataclasses.replace(
            config,
            params_convention=params,
            flops_convention=flops,
            resamples=min(config.resamples, RESAMPLES),
        )
        for params in known
        for flops in (FLOPS_CONVENTIONS if exact else ("6nd",))
    ]


def convention_table(table: Any, form: Form, config: FitConfig) -> list[dict[str, Any]]:
    """The same fit under each way to count parameters and FLOPs that the table allows."""
    table = as_table(table)
    counted = countings(table, config)
    return in_threads([functools.partial(_convention_row, table, form, one) for one in counted])


def _convention_row(table: Any, form: Form, config: FitConfig) -> dict[str, Any]:
    row: dict[str, Any] = {"params": config.params_convention, "flops": config.flops_convention}
    try:
        runs = best_of_each(prepare(table, config), config.settings)
        check_runs(runs, form)
        law = fit_runs(runs, form, config, quick=True)
    except UserError as error:
        return {**row, "note": str(error)}
    return convention_row(runs, law, config)


def convention_row(runs: Runs, law: Fit, config: FitConfig) -> dict[str, Any]:
    """The row of a law that was fitted under this counting."""
    row: dict[str, Any] = {"params": config.params_convention, "flops": config.flops_convention}
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
