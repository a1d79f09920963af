"""The one optimizer behind every law: damped Newton in float64, thousands of fits at once.

Each lane of a batch is one fit: a start, or a resample. Lanes share the columns and differ in the
starting point, the observed losses and the weights, so a resample or a hold-out is a row of
weights. Huber's delta begins wide and shrinks to its target, lane by lane: the wide problem is
close to least squares and has no spurious minima nearby.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import numpy as np

from gptjax.scaling.fit import derivatives, newton, traced
from gptjax.scaling.fit.coordinates import values_of
from gptjax.scaling.fit.derivatives import Objective, takes_jets
from gptjax.scaling.forms.form import Form

AT_ONCE = 500_000  # lanes times rows of an objective that are in memory together
WIDEN = 1024.0  # delta starts this much wider
TOLERANCE = 1e-13  # relative decrease that Newton still predicts when a lane stops


@dataclasses.dataclass(frozen=True)
class Problem:
    """A form over a table, ready to be fitted.

    Attributes:
      form: the law.
      columns: float64 arrays of n rows.
      loss: observed loss, n rows.
      weights: n rows, non-negative.
      kind: what is summed ('huber_log', 'squares_log', 'lad_log', 'huber', 'squares', 'lad').
      delta: Huber's switch, in log loss (or loss, for the raw kinds).
    """

    form: Form
    columns: dict[str, np.ndarray]
    loss: np.ndarray
    weights: np.ndarray
    kind: str = "huber_log"
    delta: float = 1e-3

    @property
    def logarithmic(self) -> bool:
        return self.kind.endswith("_log")

    @property
    def target(self) -> np.ndarray:
        """What residuals are taken from: the log of the loss, or the loss."""
        return np.log(self.loss) if self.logarithmic else self.loss

    @functools.cached_property
    def centres(self) -> dict[str, float]:
        """Mean log of every column that has one."""
        return {c: float(np.mean(np.log(self.columns[c]))) for c in self.form.centred}

    def over(
        self, columns: dict[str, np.ndarray], loss: np.ndarray, weights: np.ndarray
    ) -> "Problem":
        """The same form and coordinates over other rows."""
        other = dataclasses.replace(self, columns=columns, loss=loss, weights=weights)
        other.__dict__["centres"] = self.centres
        return other

    @property
    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Limits of the fitted coordinates, (p,) each."""
        fitted = self.form.fitted
        low = [np.log(p.low) if p.positive else p.low for p in fitted]
        high = [np.log(p.high) if p.positive else p.high for p in fitted]
        return np.array(low), np.array(high)


class Solution(NamedTuple):
    """Where each lane ended, (M, ...) arrays."""

    theta: np.ndarray
    objective: np.ndarray
    converged: np.ndarray
    iterations: np.ndarray


def effective_delta(problem: Problem) -> float:
    """Huber's delta of each kind: least squares and LAD are its two ends."""
    if problem.kind.startswith("squares"):
        return 1e6
    return 1e-7 if problem.kind.startswith("lad") else problem.delta


def objective_unit(problem: Problem) -> float:
    """What one unit of the smooth objective is worth: LAD is Huber over its delta."""
    return 1.0 / effective_delta(problem) if problem.kind.startswith("lad") else 1.0


def solve(
    problem: Problem,
    theta: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    target: np.ndarray | None = None,
    held: np.ndarray | None = None,
    widen: float = WIDEN,
    tolerance: float = TOLERANCE,
    enough: int = 0,
) -> Solution:
    """Fit every lane.

    Args:
      problem: the form and its table (n rows).
      theta: starting coordinates, (M, p).
      weights: (M, n); the problem's own for all lanes when absent.
      target: observed (log) losses, (M, n); the problem's own when absent.
      held: which coordinates stay where they start, (M, p); none when absent.
      widen: how many times wider delta begins.
      tolerance: relative decrease below which a lane stops; 0 polishes to the last bit.
      enough: how many lanes must end at the same minimum to end the search; 0: all go on.

    Returns:
      A Solution of M lanes; `converged` is false where the iterations ran out.
    """
    lanes, n = len(theta), len(problem.loss)
    if lanes == 0:
        empty = np.zeros(0)
        return Solution(theta, empty, empty.astype(bool), empty.astype(int))
    weights = np.broadcast_to(problem.weights if weights is None else weights, (lanes, n))
    target = np.broadcast_to(problem.target if target is None else target, (lanes, n))
    delta = effective_delta(problem)
    spread = max(delta * widen, 1e-1) if widen > WIDEN / 2 else delta * widen
    if problem.kind.startswith("squares"):
        spread = delta
    low, high = problem.bounds
    start = np.clip(np.asarray(theta, np.float64), low, high)
    held = np.zeros(np.shape(theta), bool) if held is None else held
    state = newton.minimise(
        _evaluator(problem, weights, target),
        newton.State.at(start, spread, held),
        target=delta,
        bounds=(low, high),
        tolerance=tolerance,
        enough=enough,
    )
    value = objective(problem, state.theta, weights, target)
    return Solution(state.theta, value, state.done & np.isfinite(value), state.count)


def objective_of(problem: Problem, weights: np.ndarray, target: np.ndarray) -> Objective:
    """What is differentiated, with the columns that the form reads."""
    needed = sorted({"params", "tokens", *problem.form.columns} & set(problem.columns))
    columns = {name: problem.columns[name] for name in needed}
    form, logs = problem.form, problem.logarithmic
    return Objective(form, logs, columns, problem.centres, target, weights)


def _evaluator(problem: Problem, weights: np.ndarray, target: np.ndarray) -> newton.Evaluate:
    """Derivatives by NumPy's jets, or by JAX for an equation that jets cannot follow."""
    found = objective_of(problem, weights, target)
    return derivatives.evaluator(found) if takes_jets(problem.form) else traced.evaluator(found)


def objective(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """The sum over runs at each lane, (M,), in the units of the loss kind."""
    lanes = len(theta)
    weights, target = (np.broadcast_to(x, (lanes, len(problem.loss))) for x in (weights, target))
    step = max(1, AT_ONCE // len(problem.loss))
    parts = [slice(start, start + step) for start in range(0, lanes, step)]
    return np.concatenate(
        [_objective(problem, theta[i], weights[i], target[i]) for i in parts] or [np.zeros(0)]
    )


def _objective(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, target: np.ndarray
) -> np.ndarray:
    values = values_of(problem.form, theta, problem.centres)
    lanes = {name: np.asarray(value)[..., None] for name, value in values.items()}
    predicted = predict(problem.form, lanes, problem.columns)
    delta = effective_delta(problem)
    with np.errstate(all="ignore"):
        residual = (np.log(predicted) if problem.logarithmic else predicted) - target
        size = np.abs(residual)
        cost = np.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))
        return np.sum(weights * cost, axis=-1) * objective_unit(problem)


def gradient(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Derivatives of the objective by the fitted coordinates at one point, (p,)."""
    residual, matrix = jacobian(problem, theta)
    delta = effective_delta(problem)
    slope = problem.weights * np.clip(residual, -delta, delta)
    return slope @ matrix * objective_unit(problem)


def curvature(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """The Hessian's part from the second derivatives of residuals at one point, (p, p)."""
    inside, matrix = jacobian(problem, theta)
    delta = effective_delta(problem)
    squares = (matrix.T * (problem.weights * (np.abs(inside) <= delta))) @ matrix
    lanes = np.zeros(1, int)
    parts = (problem.weights[None], problem.target[None])
    found = _evaluator(problem, *parts)(theta[None], np.full(1, delta), lanes)
    return found.hessian[0] - squares


def jacobian(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) and their derivatives (n, p) at one point, in (log) loss."""
    found = objective_of(problem, problem.weights[None], problem.target[None])
    by = derivatives if takes_jets(problem.form) else traced
    return by.jacobian(found, theta)


def predict(form: Form, values: dict[str, Any], columns: dict[str, Any]) -> np.ndarray:
    """The form's loss in float64, for any broadcastable shapes."""
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(form.loss(values, columns), dtype=np.float64)
