"""Intervals: refits of resampled tables, all in the one vectorised program.

Two ways. `runs` draws runs with replacement (or trunks, or curves: whatever shares its luck), as
Hoffmann et al. do; it needs many of them: from 35 runs it gives intervals that are too wide.
`wild` keeps every run and redraws its scatter from the residuals, inflated for leverage, with a
random multiplier that runs of one trunk share (Wu 1986; Cameron, Gelbach and Miller 2008); it works
from a dozen runs or trunks on. Percentiles are widened for the degrees of freedom that the fit used
up (Hesterberg 2015, "expanded percentile"). The coverage of both is measured in the tests.
"""

import dataclasses
import math
from statistics import NormalDist

import numpy as np

from gptjax.scaling import engine
from gptjax.scaling.engine import Problem

SMOOTHING = 1 / 3  # width of the noise added to redrawn residuals, in their own spread
WEBB = np.sqrt([0.5, 1.0, 1.5])
WEBB = np.concatenate([-WEBB, WEBB])  # multipliers for few groups (Webb 2023)
RUNS_PER_PARAMETER = 20  # fewer groups than this for each parameter: wild


@dataclasses.dataclass(frozen=True)
class Interval:
    """A number and where it is believed to lie; NaN ends where nothing could be resampled."""

    value: float
    low: float = math.nan
    high: float = math.nan
    stderr: float = math.nan

    def __iter__(self):
        return iter((self.value, self.low, self.high))

    def __str__(self) -> str:
        return f"{self.value:.6g} [{self.low:.4g}, {self.high:.4g}]"


@dataclasses.dataclass(frozen=True)
class Resamples:
    """Refitted coordinates, one row a resample; failed ones are counted and left out.

    Attributes:
      theta: (R, p) of those that converged.
      failed: how many did not.
      kind: 'runs' or 'wild'.
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


def choose_kind(groups: int, parameters: int) -> str:
    """'runs' where there are enough of them to draw from, else 'wild'."""
    return "runs" if groups >= RUNS_PER_PARAMETER * parameters else "wild"


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


def block_adjusted_residuals(problem: Problem, theta: np.ndarray, group: np.ndarray) -> np.ndarray:
    """Observed minus predicted, each group's block times (I - H_gg)^-1/2, (n,).

    What a group's shared luck did to the fit is hidden from its own residuals; this is the
    correction of Bell and McCaffrey (2002) for few groups.
    """
    residual, matrix = engine.jacobian(problem, theta)
    root = _hat_root(matrix, problem.weights)
    adjusted = np.empty_like(residual)
    for one in np.unique(group):
        rows = np.flatnonzero(group == one)
        sizes, vectors = np.linalg.eigh(root[rows] @ root[rows].T)
        stretch = 1 / np.sqrt(1 - np.clip(sizes, 0.0, 0.99))
        adjusted[rows] = -vectors @ (stretch * (vectors.T @ residual[rows]))
    return adjusted


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
      kind: 'runs', 'wild', or 'auto' for whichever suits the number of groups.
    """
    groups = len(np.unique(group))
    kind = choose_kind(groups, len(theta)) if kind == "auto" else kind
    rng = np.random.default_rng([seed, 1])
    starts = np.repeat(theta[None], count, axis=0)
    freedom = max(groups, len(theta) + 1) - len(theta)
    if kind == "runs":
        weights = group_weights(group, count, rng) * problem.weights
        target = None
    else:
        noise = _noise(problem, theta, group, count, rng)
        target, weights = _fitted(problem, theta) + noise, None
    solution = engine.solve(problem, starts, weights=weights, target=target, widen=8.0)
    good = solution.converged & np.all(np.isfinite(solution.theta), axis=1)
    return Resamples(
        solution.theta[good], int(count - good.sum()), kind, group_by, freedom, groups, seed
    )


def _noise(
    problem: Problem, theta: np.ndarray, group: np.ndarray, count: int, rng: np.random.Generator
) -> np.ndarray:
    """Noise for `count` tables, (count, n).

    Runs on their own draw from all runs' residuals, smoothed by a third of their spread: an
    absolute-value fit passes through p of the runs, and their zeros would feign precision. Runs
    that share a trunk keep their own residuals and are multiplied together, by Webb's six points.
    """
    groups, runs = len(np.unique(group)), len(problem.loss)
    if groups < runs:
        adjusted = block_adjusted_residuals(problem, theta, group)
        return rng.choice(WEBB, size=(count, groups))[:, group] * adjusted
    adjusted = adjusted_residuals(problem, theta)
    size = (count, runs)
    smooth = SMOOTHING * np.sqrt(np.mean(adjusted**2)) * rng.standard_normal(size)
    signs = rng.choice([-1.0, 1.0], size=(count, groups))[:, group]
    return signs * rng.choice(adjusted, size=size) + smooth


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
    """Expanded-percentile interval around `value` from resampled values, (R,)."""
    samples = samples[np.isfinite(samples)]
    if len(samples) < 20:
        return Interval(float(value))
    tail = expanded_tail(confidence, freedom, shrunk=shrunk)
    low, high = np.quantile(samples, [tail, 1 - tail])
    return Interval(float(value), float(low), float(high), float(np.std(samples)))


def band(samples: np.ndarray, confidence: float, freedom: float) -> tuple[np.ndarray, np.ndarray]:
    """Expanded percentiles along the first axis, ignoring what is not finite."""
    if len(samples) < 20:
        missing = np.full(samples.shape[1:], np.nan)
        return missing, missing
    tail = expanded_tail(confidence, freedom, shrunk=False)
    low, high = np.nanquantile(np.where(np.isfinite(samples), samples, np.nan), [tail, 1 - tail], 0)
    return low, high
