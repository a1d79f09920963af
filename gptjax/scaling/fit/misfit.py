"""Lack of fit: whether residuals have structure that seed noise has not.

A form with another curvature than the truth fits the runs it was given to a few parts in a
thousand and is wrong far beyond them. Two F tests on the linearised fit look for that: of quadratic
terms in ln N and ln D, which no correct form leaves in its residuals, and, where runs are repeated,
of the scatter between different runs against that between repeats.
"""

import dataclasses

import numpy as np
import scipy  # its parts are imported at their first use

from gptjax.scaling.fit import engine, optimum
from gptjax.scaling.fit.result import Fit

LEVEL = 0.04  # of both tests together: fewer than one false alarm in twenty
WIDEST = 3.0  # most that structure widens an interval
CLIP = 4.0  # residuals count for at most this many robust standard deviations


@dataclasses.dataclass(frozen=True)
class Misfit:
    """Probabilities of as much structure without misfit; NaN where a test cannot be made.

    `ratio` is the mean square of the structure over that of the rest, 1 in the mean without misfit.
    """

    structure: float
    repeats: float
    ratio: float = 1.0

    @property
    def p(self) -> float:
        """The smaller one, times the number of tests that were made."""
        made = [p for p in (self.structure, self.repeats) if np.isfinite(p)]
        return min(1.0, min(made) * len(made)) if made else float("nan")

    @property
    def found(self) -> bool:
        return bool(self.p < LEVEL)

    @property
    def widening(self) -> float:
        """Factor by which an interval that knows of noise alone is too short (Birge 1932)."""
        return float(np.sqrt(np.clip(self.ratio, 1.0, WIDEST**2)))


def lack_of_fit(law: Fit) -> Misfit:
    """Both tests on the runs of a fit."""
    residual, matrix = engine.jacobian(law.problem, law.theta)
    if not (np.all(np.isfinite(residual)) and np.all(np.isfinite(matrix))):
        return Misfit(float("nan"), float("nan"))
    middle = np.median(residual)
    spread = max(1.4826 * float(np.median(np.abs(residual - middle))), 1e-300)
    root = np.sqrt(law.problem.weights)
    residual = root * np.clip(residual, middle - CLIP * spread, middle + CLIP * spread)
    matrix = root[:, None] * matrix
    structure, ratio = _structure(law, residual, matrix, root)
    return Misfit(structure, _repeats(law, residual, matrix), ratio)


def undetected(law: Fit, flops: float) -> float:
    """Relative change of the best loss at a budget by a bend that the tests would not find.

    The bend is the quadratic in ln N and ln D whose effect at the budget is two standard errors,
    beside the form refitted with it: what these runs leave open about another curvature. NaN where
    the form has no optimum or the runs leave the bend open altogether.
    """
    if not law.form.splits_compute:
        return float("nan")
    residual, matrix = engine.jacobian(law.problem, law.theta)
    best = optimum.best_params(law.form, law.values, flops, law.cost)
    place = {"params": best, "tokens": law.cost.tokens(flops, best)}
    inputs = {**place, "flops": law.cost.flops(place["params"], place["tokens"])}
    loss = np.ravel(engine.predict(law.form, law.values, inputs))
    there = engine.jacobian(law.problem.over(inputs, loss, np.ones(1)), law.theta)[1][0]
    logs = [np.log(law.runs.params), np.log(law.runs.tokens)]
    bends = _bends(*(x - x.mean() for x in logs))
    target = [np.log(place[n]) - x.mean() for n, x in zip(place, logs, strict=True)]
    root = np.sqrt(law.problem.weights)
    moved = np.linalg.lstsq(root[:, None] * matrix, root[:, None] * bends, rcond=1e-10)[0]
    left = root[:, None] * (bends - matrix @ moved)
    effect = _bends(*target)[0] - there @ moved
    freedom = max(len(residual) - matrix.shape[1] - bends.shape[1], 1)
    scatter = np.sqrt(np.sum(law.problem.weights * residual**2) / freedom)
    inverse = np.linalg.pinv(left.T @ left, rcond=1e-12)
    shift = 2 * scatter * np.sqrt(effect @ inverse @ effect)
    return float(shift if law.problem.logarithmic else shift / loss[0])


def _bends(size: np.ndarray, data: np.ndarray) -> np.ndarray:
    """Quadratic terms of centred ln N and ln D, (n, 3)."""
    return np.stack([size**2, size * data, data**2], axis=1)


def _basis(matrix: np.ndarray) -> np.ndarray:
    """Orthonormal columns that span those of `matrix`."""
    norms = np.maximum(np.linalg.norm(matrix, axis=0), 1e-300)
    left, sizes, _ = np.linalg.svd(matrix / norms, full_matrices=False)
    return left[:, sizes > 1e-7 * sizes[0]]


def _structure(
    law: Fit, residual: np.ndarray, matrix: np.ndarray, root: np.ndarray
) -> tuple[float, float]:
    """(probability, ratio of mean squares); (NaN, 1) where no term is left to test."""
    if not {"params", "tokens"} <= set(law.form.columns):
        return float("nan"), 1.0
    size, data = (np.log(x) - np.mean(np.log(x)) for x in (law.runs.params, law.runs.tokens))
    extra = root[:, None] * _bends(size, data)
    known = _basis(matrix)
    own = np.linalg.norm(extra, axis=0)
    extra = extra - known @ (known.T @ extra)
    extra = extra[:, np.linalg.norm(extra, axis=0) > 1e-4 * own]
    if not extra.shape[1]:
        return float("nan"), 1.0
    extra = _basis(extra)
    rest = residual - known @ (known.T @ residual)
    explained = float(np.sum((extra.T @ rest) ** 2))
    terms = extra.shape[1]
    freedom = len(residual) - known.shape[1] - terms
    left = float(np.sum(rest**2)) - explained
    p = _f_test(explained, terms, left, freedom)
    return p, explained / terms / (left / freedom) if np.isfinite(p) else 1.0


def _repeats(law: Fit, residual: np.ndarray, matrix: np.ndarray) -> float:
    """Scatter between different runs against that between repeats of one."""
    keys = np.stack([law.runs.columns[name] for name in law.form.columns], axis=1)
    which = np.unique(keys, axis=0, return_inverse=True)[1].ravel()
    kinds = int(which.max()) + 1
    known = _basis(matrix)
    means = (np.bincount(which, residual) / np.bincount(which))[which]
    own = float(np.sum((residual - means) ** 2))
    rest = residual - known @ (known.T @ residual)
    between = float(np.sum(rest**2)) - own
    return _f_test(between, kinds - known.shape[1], own, len(residual) - kinds)


def _f_test(first: float, terms: int, second: float, freedom: int) -> float:
    if terms < 1 or freedom < 3 or second <= 1e-24 * max(first, 1e-300) or second < 1e-20:
        return float("nan")
    return float(scipy.special.fdtrc(terms, freedom, max(first, 0.0) / terms / (second / freedom)))
