"""Intervals: refits of resampled tables, all in one vectorised search.

Four ways. `runs` draws runs with replacement (or trunks, or curves: whatever shares its luck), as
Hoffmann et al. do; it needs many of them: with 20 a parameter its intervals are still too wide.
`wild` keeps every run and redraws its scatter from all runs' residuals, inflated for leverage, with
random signs (Wu 1986); it works from a dozen runs on. `shared` does so where runs share a trunk:
it redraws the luck of each trunk and each run's own, with variances estimated from the residuals
and drawn from what is left unknown about them, since a dozen trunks say little about theirs.
`poisson` is for tables too large to be fitted a thousand times: how often each run counts is drawn
from a Poisson distribution, and one Newton step from the optimum stands for the refit (Davidson and
MacKinnon 1999). The percentiles of all but `shared` are widened for the degrees of freedom that the
fit used up (Hesterberg 2015, "expanded percentile"). tests/scaling/test_coverage.py measures the
coverage of all four.
"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np
import scipy  # its parts are imported at their first use

from gptjax.scaling.fit import engine
from gptjax.scaling.fit.engine import Problem

SMOOTHING = 1 / 3  # width of the noise added to redrawn residuals, in their own spread
NEARBY = 8.0  # how many times wider delta begins in a refit
RUNS_PER_PARAMETER = 40  # from so many groups for each parameter on, they are drawn themselves
LARGE = 1000  # rows from which on one step stands for a refit
DRAWN = 4096  # groups whose weights are in memory together
FEWEST = 3.0  # degrees of freedom below which a variance is not drawn wider still
SETTLED = 1e9  # degrees of freedom of resamples that hold the doubt about the variances themselves


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and where it is believed to lie; NaN ends where nothing could be resampled."""

    value: float
    low: float = math.nan
    high: float = math.nan
    stderr: float = math.nan

    def __iter__(self):
        return iter((self.value, self.low, self.high))

    def to_json(self) -> dict[str, float]:
        """{"value", "low", "high", "stderr"}, as in `laws.json`."""
        return dict(vars(self))

    def __str__(self) -> str:
        return f"{self.value:.6g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class Resamples:
    """Refitted coordinates, one row a resample; failed ones are counted and left out.

    Attributes:
      theta: (R, p) of those that converged.
      failed: how many did not.
      kind: 'runs', 'wild', 'shared' or 'poisson'.
      group_by: what was drawn together.
      freedom: groups minus parameters.
      groups: how many groups were drawn from.
    """

    theta: np.ndarray
    failed: int
    kind: str
    group_by: str
    freedom: int
    groups: int
    seed: int

    def __len__(self) -> int:
        return len(self.theta)

    @property
    def tail_freedom(self) -> float:
        """Degrees of freedom for which percentiles of the resamples have to be widened."""
        return SETTLED if self.kind == "shared" else float(self.freedom)


def choose_kind(group: np.ndarray, parameters: int) -> str:
    """'runs' where there are enough of them to draw from, else 'wild', or 'shared' with trunks.

    'poisson' in their place for large tables.
    """
    if len(group) > LARGE:
        return "poisson"
    groups = len(np.unique(group))
    if groups >= RUNS_PER_PARAMETER * parameters:
        return "runs"
    return "shared" if groups < len(group) else "wild"


def group_weights(group: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """How often each row is drawn when whole groups are drawn with replacement, (count, n)."""
    groups = int(group.max()) + 1
    draws = rng.multinomial(groups, np.full(groups, 1 / groups), size=count)
    return draws[:, group].astype(np.float64)


def leverage(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Diagonal of the hat matrix of a linearised weighted fit, (n,) within [0, 1)."""
    return np.clip(np.sum(_hat_root(matrix, weights) ** 2, axis=1), 0.0, 0.99)


def _hat_root(matrix: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Q with hat matrix Q Q', (n, rank)."""
    scaled = matrix * np.sqrt(weights)[:, None]
    scaled = scaled / np.maximum(np.linalg.norm(scaled, axis=0), 1e-300)
    left, sizes, _ = np.linalg.svd(scaled, full_matrices=False)
    return left[:, sizes > 1e-10 * sizes[0]]


def adjusted_residuals(problem: Problem, theta: np.ndarray) -> np.ndarray:
    """Observed minus predicted, inflated by 1/sqrt(1 - leverage), (n,)."""
    residual, matrix = engine.jacobian(problem, theta)
    return -residual / np.sqrt(1 - leverage(matrix, problem.weights))


def resample(
    problem: Problem,
    theta: np.ndarray,
    group: np.ndarray,
    *,
    count: int,
    seed: int,
    kind: str = "auto",
    group_by: str = "run",
) -> Resamples:
    """Refit `count` resampled tables, each from the optimum of the original.

    Args:
      problem, theta: the fit and its optimum.
      group: (n,) indices of what is drawn together, 0 to G-1.
      count, seed: how many, and the seed of the draws.
      kind: 'runs', 'wild', 'shared', 'poisson', or 'auto' for whichever suits the groups.
    """
    kind = choose_kind(group, len(theta)) if kind == "auto" else kind
    if kind == "poisson":
        solution = _one_step(problem, theta, group, count, np.random.default_rng([seed, 1]))
        return collect(solution, group, kind=kind, group_by=group_by, seed=seed)
    weights, target = redraw(problem, theta, group, count=count, seed=seed, kind=kind)
    starts = np.repeat(theta[None], count, axis=0)
    solution = engine.solve(problem, starts, weights=weights, target=target, widen=NEARBY)
    return collect(solution, group, kind=kind, group_by=group_by, seed=seed)


def redraw(
    problem: Problem, theta: np.ndarray, group: np.ndarray, *, count: int, seed: int, kind: str
) -> tuple[np.ndarray, np.ndarray]:
    """Weights and observed (log) losses of `count` resampled tables, (count, n) each."""
    rng = np.random.default_rng([seed, 1])
    if kind == "runs":
        weights = group_weights(group, count, rng) * problem.weights
        return weights, np.broadcast_to(problem.target, weights.shape)
    noise = _shared_noise if kind == "shared" else _noise
    target = _fitted(problem, theta) + noise(problem, theta, group, count, rng)
    return np.broadcast_to(problem.weights, target.shape), target


def collect(
    solution: engine.Solution, group: np.ndarray, *, kind: str, group_by: str, seed: int
) -> Resamples:
    """The resamples among solved lanes: those that converged, and how many did not."""
    good = solution.converged & np.all(np.isfinite(solution.theta), axis=1)
    groups, parameters = len(np.unique(group)), solution.theta.shape[1]
    freedom = max(groups, parameters + 1) - parameters
    failed = int(len(good) - good.sum())
    return Resamples(solution.theta[good], failed, kind, group_by, freedom, groups, seed)


def _one_step(
    problem: Problem, theta: np.ndarray, group: np.ndarray, count: int, rng: np.random.Generator
) -> engine.Solution:
    """One Newton step from the optimum under Poisson weights of the groups.

    The weight of a residual in the Hessian is the probability that it lies inside delta, smoothed
    by a third of the residuals' spread: few do where delta is small, and which is chance.
    """
    residual, matrix = engine.jacobian(problem, theta)
    size = matrix.shape[1]
    delta = engine.effective_delta(problem)
    curvature = engine.curvature(problem, theta)
    slope = problem.weights * np.clip(residual, -delta, delta)
    share = problem.weights * smoothed_inside(residual, delta)
    squares = np.einsum("n,ni,nj->nij", share, matrix, matrix).reshape(-1, size * size)
    rows = np.concatenate([slope[:, None] * matrix, squares], axis=1)
    sums = np.stack([np.bincount(group, column) for column in rows.T], axis=1)
    total = np.zeros((count, sums.shape[1]))
    for start in range(0, len(sums), DRAWN):
        part = sums[start : start + DRAWN]
        total += rng.poisson(1.0, (count, len(part))).astype(np.float64) @ part
    # The gradient at the optimum is zero but for LAD, where rows that the fit passes through are 0.
    gradient = total[:, :size] - sums[:, :size].sum(0)
    hessian = total[:, size:].reshape(count, size, size) + curvature
    low, high = problem.bounds
    step = np.linalg.solve(hessian, gradient[:, :, None])[:, :, 0]
    moved = np.clip(theta - step, low, high)
    good = np.all(np.isfinite(moved), axis=1)
    return engine.Solution(moved, np.zeros(count), good, np.ones(count, np.int32))


def smoothed_inside(residual: np.ndarray, delta: float) -> np.ndarray:
    """Probability of |residual + noise| < delta, the noise a third of the residuals' spread."""
    smooth = max(SMOOTHING * float(np.sqrt(np.mean(residual**2))), 1e-300)
    size = np.abs(residual)
    cdf = scipy.special.ndtr
    return cdf((delta - size) / smooth) - cdf((-delta - size) / smooth)


def _noise(
    problem: Problem, theta: np.ndarray, group: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise for `count` tables, (count, n): draws from all runs' residuals with random signs.

    Smoothed by a third of their spread: an absolute-value fit passes through p of the runs, and
    their zeros would feign precision.
    """
    adjusted = adjusted_residuals(problem, theta)
    size = (count, len(adjusted))
    smooth = SMOOTHING * np.sqrt(np.mean(adjusted**2)) * rng.standard_normal(size)
    signs = rng.choice([-1.0, 1.0], size=size)
    return signs * rng.choice(adjusted, size=size) + smooth


def _shared_noise(
    problem: Problem, theta: np.ndarray, group: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise for `count` tables, (count, n): one draw a group and one a run.

    Each table draws both variances too, as degrees of freedom over chi-squared times the estimate:
    percentiles are then as wide as Student's t for whatever mixture a quantity depends on.
    """
    groups, runs = int(group.max()) + 1, len(group)
    shared, own = variances(problem, theta, group)
    sizes = [
        np.sqrt(part.value * part.freedom / rng.chisquare(part.freedom, (count, 1)))
        for part in (shared, own)
    ]
    luck = sizes[0] * rng.standard_normal((count, groups))
    rest = sizes[1] * rng.standard_normal((count, runs)) / np.sqrt(problem.weights)
    return luck[:, group] + rest


@dataclasses.dataclass(frozen=True)
class Variance:
    """An estimated variance and the degrees of freedom that it rests on."""

    value: float
    freedom: float


def variances(problem: Problem, theta: np.ndarray, group: np.ndarray) -> tuple[Variance, Variance]:
    """Of the luck that the runs of a group share, and of each run's own.

    Sums of squares of the residuals between and within groups are set to their expectations under
    the linearised fit (Henderson's method; the degrees of freedom are Satterthwaite's).
    """
    residual, matrix = engine.jacobian(problem, theta)
    root = np.sqrt(problem.weights)
    hat = _hat_root(matrix, problem.weights)
    left = np.eye(len(residual)) - hat @ hat.T
    member = np.eye(int(group.max()) + 1)[group] * root[:, None]
    between = member @ np.linalg.pinv(member)
    projections = (between, np.eye(len(residual)) - between)
    parts = [left @ projection @ left for projection in projections]
    scaled = root * residual
    squares = [float(scaled @ projection @ scaled) for projection in projections]
    expected = [[np.sum(part * (member @ member.T)), np.trace(part)] for part in parts]
    found = np.linalg.lstsq(np.array(expected), np.array(squares), rcond=1e-9)[0]
    freedom = [np.trace(part) ** 2 / max(np.sum(part * part), 1e-300) for part in parts]
    shared, own = (
        Variance(max(float(value), 0.0), max(float(count), FEWEST))
        for value, count in zip(found, freedom, strict=True)
    )
    return shared, own


def _fitted(problem: Problem, theta: np.ndarray) -> np.ndarray:
    return problem.target + engine.jacobian(problem, theta)[0]


def t_quantile(probability: float, freedom: float) -> float:
    """Student's t quantile (Cornish-Fisher; within .5 % from 4 degrees of freedom on).

    >>> round(t_quantile(0.975, 10), 2)
    2.23
    """
    z = NormalDist().inv_cdf(probability)
    n = max(freedom, 3.0)
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return z + first / n + second / n**2 + third / n**3


def expanded_tail(confidence: float, freedom: float, *, shrunk: bool) -> float:
    """Tail probability of the percentiles to read, widened for few degrees of freedom.

    `shrunk` says that the resampled residuals were not inflated for the parameters fitted.
    """
    upper = 0.5 + confidence / 2
    stretch = t_quantile(upper, freedom)
    if shrunk:
        stretch *= math.sqrt((freedom + 5) / freedom)
    return NormalDist().cdf(-stretch)


def interval(
    value: float, samples: np.ndarray, confidence: float, freedom: float, *, shrunk: bool = False
) -> Interval:
    """Expanded-percentile interval around `value` from resampled values, (R,).

    The k-th smallest of R stands for the share k / (R + 1), so that few resamples
    do not shorten it.
    """
    samples = samples[np.isfinite(samples)]
    if len(samples) < 20:
        return Interval(float(value))
    tail = expanded_tail(confidence, freedom, shrunk=shrunk)
    low, high = np.quantile(samples, [tail, 1 - tail], method="weibull")
    return Interval(float(value), float(low), float(high), float(np.std(samples)))


def band(samples: np.ndarray, confidence: float, freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Expanded percentiles along the first axis, ignoring what is not finite."""
    if len(samples) < 20:
        missing = np.full(samples.shape[1:], np.nan)
        return missing, missing
    tail = expanded_tail(confidence, freedom, shrunk=False)
    samples = np.where(np.isfinite(samples), samples, np.nan)
    low, high = np.nanquantile(samples, [tail, 1 - tail], 0, method="weibull")
    return low, high
