"""Profile likelihood: how well the runs can be fitted with one parameter held elsewhere.

The other parameters are fitted again at each held value. Where the fit stays as good all the way to
zero or infinity, the runs do not identify the parameter, whatever its printed digits. The measure
is the robust likelihood-ratio statistic of an M-estimate, 2 a/b (S - S_best), with a the mean
derivative and b the mean square of the influence function: chi-squared with one degree of freedom
when the held value is true (Huber and Ronchetti 2009, section 13.6).
"""

import dataclasses
import math

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.fit import bootstrap, engine
from gptjax.scaling.fit.engine import Problem

POINTS = 12  # held values on each side of the estimate
# Share of the objective below which a step cannot change a verdict: evidence is some 4/n of it.
VERDICT = 1e-4


@dataclasses.dataclass(frozen=True)
class Profile:
    """The profile of one parameter.

    Attributes:
      name: the parameter.
      values: held values, increasing, the estimate among them; of a parameter that multiplies a
        power of a column, its value times that power at the middle of the data; of one in a curve
        a X^g + b, the curve's tilt or level there.
      rise: the likelihood-ratio statistic there; 0 at the estimate.
      limit: what it must exceed to be evidence against a value, at the fit's confidence.
      low, high: where it does; 0 or -infinity, and infinity, where it never does.
      open_below, open_above: whether it never does, up to the parameter's limit.
    """

    name: str
    values: np.ndarray
    rise: np.ndarray
    limit: float
    low: float
    high: float
    open_below: bool
    open_above: bool

    def __str__(self) -> str:
        sides = [
            s for s, is_open in (("below", self.open_below), ("above", self.open_above)) if is_open
        ]
        if not sides:
            return f"{self.name}: the runs bound it to [{self.low:.4g}, {self.high:.4g}]"
        return f"{self.name}: the runs do not bound it from {' or '.join(sides)}"


def profile(
    problem: Problem,
    theta: np.ndarray,
    name: str,
    *,
    covariance: np.ndarray,
    confidence: float,
    freedom: float,
    points: int = POINTS,
) -> Profile:
    """The profile of one fitted parameter.

    Args:
      problem, theta: the optimization and its optimum.
      name: which parameter.
      covariance: of the fitted coordinates, for the spacing of held values.
      confidence, freedom: of the evidence against a held value.
      points: held values on each side.

    Raises:
      UserError: for a parameter that is not fitted.
    """
    names = [parameter.name for parameter in problem.form.fitted]
    if name not in names:
        raise UserError(f"{problem.form.name} fits no {name}; {nearest(name, names)}")
    index = names.index(name)
    low, high = (end[index] for end in problem.bounds)
    best = theta[index]
    width = max(float(np.sqrt(covariance[index, index])), 1e-6)
    below = best - np.geomspace(min(width / 2, best - low), best - low, points)[::-1]
    above = best + np.geomspace(min(width / 2, high - best), high - best, points)
    grid = np.concatenate([below, above])
    rise = rises(problem, theta, np.full(len(grid), index), grid)
    limit = evidence(confidence, freedom)
    grid = np.insert(grid, points, best)
    rise = np.insert(rise, points, 0.0)
    shown = np.exp(grid) if problem.form.fitted[index].positive else grid
    ends = (
        _crossing(grid[points::-1], rise[points::-1], limit),
        _crossing(grid[points:], rise[points:], limit),
    )
    positive = problem.form.fitted[index].positive
    return Profile(
        name,
        shown,
        rise,
        limit,
        low=_natural(ends[0], positive, 0.0 if positive else -math.inf),
        high=_natural(ends[1], positive, math.inf),
        open_below=ends[0] is None,
        open_above=ends[1] is None,
    )


def _crossing(grid: np.ndarray, rise: np.ndarray, limit: float) -> float | None:
    """Where the profile first exceeds the limit, going outwards; None where it never does."""
    beyond = np.flatnonzero(rise > limit)
    if not len(beyond):
        return None
    i = int(beyond[0])
    share = (limit - rise[i - 1]) / (rise[i] - rise[i - 1])
    return float(grid[i - 1] + share * (grid[i] - grid[i - 1]))


def _natural(end: float | None, positive: bool, beyond: float) -> float:
    if end is None:
        return beyond
    return math.exp(end) if positive else end


def evidence(confidence: float, freedom: float) -> float:
    """The statistic beyond which a held value is refused: Student's t, squared."""
    return bootstrap.t_quantile(0.5 + confidence / 2, freedom) ** 2


def rises(
    problem: Problem,
    theta: np.ndarray,
    index: np.ndarray,
    held: np.ndarray,
    tolerance: float = engine.TOLERANCE,
) -> np.ndarray:
    """The statistic with coordinate index[i] held at held[i], (M,), in one vectorised search.

    Each is searched from the optimum and from the linearised valley floor through it, until a step
    promises less than `tolerance` of the objective.
    """
    lanes = np.arange(len(held))
    residual, matrix = engine.jacobian(problem, theta)
    inverse = np.linalg.pinv(matrix.T @ (matrix * problem.weights[:, None]), rcond=1e-10)
    floor = inverse[index] / np.maximum(np.diag(inverse)[index], 1e-300)[:, None]
    low, high = problem.bounds
    direct = np.repeat(theta[None], len(held), axis=0)
    along = np.clip(theta + floor * (held - theta[index])[:, None], low, high)
    starts = np.stack([direct, along])
    starts[:, lanes, index] = held
    mask = np.zeros_like(direct, bool)
    mask[lanes, index] = True
    both = engine.solve(
        problem,
        np.concatenate(starts),
        held=np.concatenate([mask, mask]),
        widen=64.0,
        tolerance=tolerance,
    )
    cost = np.nanmin(np.stack(np.split(both.objective, 2)), axis=0, initial=np.inf)
    best = engine.objective(problem, theta[None], problem.weights[None], problem.target[None])[0]
    return np.maximum(cost - best, 0.0) * _unit(problem, residual, len(theta))


def _unit(problem: Problem, residual: np.ndarray, parameters: int) -> float:
    """2 a/b: what one unit of the objective is worth as evidence.

    Near least absolute values few residuals lie inside delta, and those are the ones that the fit
    interpolates, so a is taken under smoothing by a third of the residuals' spread.
    """
    delta = engine.effective_delta(problem)
    freedom = max(len(residual) - parameters, 1)
    inside = bootstrap.smoothed_inside(residual, delta)
    slope = float(np.mean(problem.weights * inside))
    square = float(np.sum((problem.weights * np.clip(residual, -delta, delta)) ** 2)) / freedom
    return 2 * slope / max(square, 1e-300) / engine.objective_unit(problem)


def unbounded(problem: Problem, theta: np.ndarray, confidence: float) -> list[tuple[str, str]]:
    """(parameter, 'below' or 'above') wherever the runs fit as well with it at its limit."""
    fitted = problem.form.fitted
    low, high = problem.bounds
    index = np.tile(np.arange(len(fitted)), 2)
    rise = rises(problem, theta, index, np.concatenate([low, high]), VERDICT)
    limit = evidence(confidence, len(problem.loss) - len(theta))
    sides = np.repeat(["below", "above"], len(fitted))
    return [
        (fitted[i].name, str(side))
        for i, side, value in zip(index, sides, rise, strict=True)
        if value <= limit
    ]
