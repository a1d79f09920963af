"""Derivatives of a fit's objective by NumPy: the form is evaluated with second-order jets.

Nothing is compiled, so that the first fit of a process is as fast as the next, and terms that a
parameter does not reach cost nothing. Lanes and rows come in blocks that stay in cache.
"""

import functools
from typing import Any, NamedTuple

import numpy as np

from gptjax.scaling.fit.coordinates import natural
from gptjax.scaling.fit.newton import Derivatives, Evaluate
from gptjax.scaling.forms.form import Form
from gptjax.scaling.forms.jets import Jet

BLOCK = 8192  # lanes times rows that are evaluated at once


class Objective(NamedTuple):
    """What is differentiated: Huber losses of a form's residuals over a table.

    Attributes:
      form: the law.
      logarithmic: whether residuals are of the log of the loss.
      columns: (n,) arrays by name.
      centres: mean logs of columns.
      target: observed (log) losses, (M, n).
      weights: (M, n).
    """

    form: Form
    logarithmic: bool
    columns: dict[str, np.ndarray]
    centres: dict[str, float]
    target: np.ndarray
    weights: np.ndarray

    def part(self, lanes: Any, rows: slice) -> "Objective":
        """Some lanes over some rows."""
        columns = {name: column[rows] for name, column in self.columns.items()}
        target, weights = self.target[lanes, rows], self.weights[lanes, rows]
        return self._replace(columns=columns, target=target, weights=weights)


def predicted(form: Form, columns: dict[str, Any], centres: Any, theta: np.ndarray) -> Jet:
    """The form's loss at (M, p) coordinates with its derivatives by them; arrays (M, n)."""
    variables = {p.name: Jet.variable(theta[:, i, None], i) for i, p in enumerate(form.fitted)}
    loss = form.loss(natural(form, variables, centres), columns)
    return loss if isinstance(loss, Jet) else Jet(np.asarray(loss, np.float64), {}, {})


@functools.lru_cache(maxsize=256)
def takes_jets(form: Form) -> bool:
    """Whether a form's equation is made of what jets can do; JAX differentiates it otherwise."""
    columns = {name: np.array([2.0, 3.0]) for name in {*form.columns, "params", "tokens", "flops"}}
    theta = np.linspace(0.3, 0.6, len(form.fitted))[None]
    centres = dict.fromkeys(form.centred, 0.5)
    variables = {p.name: theta[:, i, None] for i, p in enumerate(form.fitted)}
    try:
        with np.errstate(all="ignore"):
            jet = predicted(form, columns, centres, theta)
            plain = np.asarray(form.loss(natural(form, variables, centres), columns))
    except Exception:  # whatever a foreign equation does with what it does not know
        return False
    parts = [jet.value, *jet.first.values(), *jet.second.values()]
    if not all(np.asarray(part).dtype == np.float64 for part in parts):
        return False
    return bool(np.allclose(jet.value, plain, rtol=1e-9, equal_nan=True))


def evaluator(objective: Objective) -> Evaluate:
    """Derivatives of the objective at coordinates, deltas and lanes."""
    rows = objective.target.shape[1]
    width = max(1, BLOCK // rows)

    def evaluate(theta: np.ndarray, delta: np.ndarray, lanes: np.ndarray) -> Derivatives:
        found = []
        for start in range(0, len(lanes), width):
            some = slice(start, start + width)
            sums = [
                _derivatives(
                    objective.part(lanes[some], slice(row, row + BLOCK)), theta[some], delta[some]
                )
                for row in range(0, rows, BLOCK)
            ]
            found.append([functools.reduce(np.add, field) for field in zip(*sums, strict=True)])
        return Derivatives(*(np.concatenate(field) for field in zip(*found, strict=True)))

    return evaluate


def _derivatives(objective: Objective, theta: np.ndarray, delta: np.ndarray) -> Derivatives:
    """Of one block of lanes and rows."""
    with np.errstate(all="ignore"):
        jet = predicted(objective.form, objective.columns, objective.centres, theta)
        residual, matrix = _residuals(objective, jet, theta.shape[1])
        weights, delta = objective.weights, delta[:, None]
        size = np.abs(residual)
        inside = size <= delta
        slope = weights * np.clip(residual, -delta, delta)
        huber = np.where(inside, 0.5 * residual**2, delta * (size - 0.5 * delta))
        straight = slope / jet.value if objective.logarithmic else slope
        curvature = _contracted(jet, straight, theta.shape[1])
        share = weights * inside
        if objective.logarithmic:  # of ln L: second derivatives of L over L, less the squared slope
            share = share - slope
        across = np.swapaxes(matrix, 1, 2)
        reach = weights * np.where(inside, 1.0, delta / np.where(inside, 1.0, size))
        return Derivatives(
            np.sum(weights * huber, axis=1),
            (matrix @ slope[:, :, None])[:, :, 0],
            (matrix * share[:, None]) @ across + curvature,
            (matrix * reach[:, None]) @ across,
        )


def _residuals(objective: Objective, jet: Jet, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Predicted minus observed, (M, n), with derivatives (M, p, n)."""
    target = objective.target
    matrix = np.zeros((len(target), size, target.shape[1]))
    share = 1 / jet.value if objective.logarithmic else 1.0
    for i, part in jet.first.items():
        matrix[:, i] = part * share
    value = np.log(jet.value) if objective.logarithmic else jet.value
    return value - target, matrix


def _contracted(jet: Jet, slope: np.ndarray, size: int) -> np.ndarray:
    """Sums over rows of slope times second derivatives, (M, p, p)."""
    sums = np.zeros((len(slope), size, size))
    for (i, j), part in jet.second.items():
        full = np.shape(part) == slope.shape
        total = np.einsum("mn,mn->m", slope, part) if full else np.sum(slope * part, axis=1)
        sums[:, i, j] = total
        sums[:, j, i] = total
    return sums


def jacobian(objective: Objective, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) and their derivatives (n, p) at one point."""
    with np.errstate(all="ignore"):
        jet = predicted(objective.form, objective.columns, objective.centres, theta[None])
        residual, matrix = _residuals(objective, jet, len(theta))
        return residual[0], matrix[0].T
