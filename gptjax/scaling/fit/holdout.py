"""Hold-out of budgets: a law refitted without the largest ones, and its error on them."""

import dataclasses
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import check_runs, fit_runs
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs


@dataclasses.dataclass(frozen=True)
class Holdout:
    """Predictions for runs that the fit did not see, (n,) arrays.

    `relative_error` is predicted over observed, minus one.
    """

    law: Fit
    heldout: Runs
    predicted: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @property
    def relative_error(self) -> np.ndarray:
        return self.predicted / self.heldout.loss - 1

    @property
    def coverage(self) -> float:
        """Share of held-out runs inside their predictive interval."""
        inside = (self.heldout.loss >= self.low) & (self.heldout.loss <= self.high)
        return float(np.mean(inside)) if np.all(np.isfinite(self.low)) else float("nan")


def hold_out(runs: Runs, form: Form, keep: np.ndarray, config: FitConfig) -> Holdout:
    """Fit the runs where `keep` is true and predict the others.

    Raises:
      UserError: when what is kept cannot identify the form.
    """
    if keep.all() or not keep.any():
        raise UserError("a hold-out needs runs on both sides; hold out fewer budgets")
    train, rest = runs.take(keep), runs.take(~keep)
    check_runs(train, form)
    law = fit_runs(train, form, config, quick=True)
    inputs: dict[str, Any] = {name: rest.columns[name] for name in form.columns}
    value, low, high = law.predict(**inputs)
    return Holdout(law, rest, np.asarray(value), np.asarray(low), np.asarray(high))


def without_largest(runs: Runs, budgets: int) -> np.ndarray:
    """Mask of the runs below the `budgets` largest budgets."""
    order = runs.budgets
    if len(order) <= budgets:
        raise UserError(
            f"holdout_budgets={budgets}, but the table has {len(order)} budgets; hold out fewer"
        )
    return runs.budget < order[-budgets]


def without_decades(runs: Runs, decades: float) -> np.ndarray:
    """Mask of the runs more than `decades` below the largest FLOPs."""
    return runs.flops < runs.flops.max() / 10**decades * (1 - 1e-9)
