"""Starting points from the data: random exponents, and linear least squares for the rest."""

import dataclasses
from typing import Any

import numpy as np

from gptjax.scaling.fit import coordinates, engine
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.forms.form import Form, Parameter

DRAWS = 4  # draws for each start; the better ones are kept


def starting_points(problem: Problem, count: int, seed: int, draws: int = 0) -> np.ndarray:
    """`count` starting points in fitted coordinates, (count, p), a function of the seed.

    Parameters in which the loss is linear are solved for by least squares at each draw of the
    others (variable projection); a negative solution is replaced by a random positive share. Of
    `draws`, four for each start when 0, those with the smallest residuals are kept.
    """
    theta = _drawn(problem, draws or count * DRAWS, seed)
    squares = dataclasses.replace(problem, kind="squares_log" if problem.logarithmic else "squares")
    error = engine.objective(squares, theta, problem.weights, problem.target)
    error = np.where(np.isfinite(error), error, np.inf)
    return theta[np.sort(np.argsort(error, kind="stable")[:count])]


def _drawn(problem: Problem, count: int, seed: int) -> np.ndarray:
    form = problem.form
    rng = np.random.default_rng([seed, 0])
    values: dict[str, Any] = {n: np.full(count, v) for n, v in form.constants.items()}
    fitted = {parameter.name: parameter for parameter in form.fitted}
    linear = [name for name in form.linear if name in fitted]
    for name, parameter in fitted.items():
        if name not in linear:
            values[name] = _draw(parameter, count, rng)
    for name, other in form.tied.items():
        if other in values:
            values[name] = values[other]
    for parameter in form.fitted:  # a centred parameter is drawn as its value at the centre
        if parameter.scale and parameter.name not in linear:
            for column, power, sign in parameter.scale:
                shift = np.exp(
                    sign * coordinates.exponent_of(values, power) * problem.centres[column]
                )
                values[parameter.name] = values[parameter.name] * shift
    for factor, bend, shift, column in form.bent:  # drawn as tilt and level at the centre
        tilt, power = values[factor], values[bend]
        values[shift] = values[shift] - tilt / power
        values[factor] = tilt / power * np.exp(-power * problem.centres[column])
    if linear:
        values |= _solve_linear(problem, form, linear, values, rng)
    low, high = problem.bounds
    return np.clip(coordinates.theta_of(form, values, problem.centres), low + 1e-9, high - 1e-9)


def _draw(parameter: Parameter, count: int, rng: np.random.Generator) -> np.ndarray:
    low, high = parameter.start
    if parameter.positive:
        return np.exp(rng.uniform(np.log(low), np.log(high), count))
    return rng.uniform(low, high, count)


def _solve_linear(
    problem: Problem,
    form: Form,
    linear: list[str],
    values: dict[str, Any],
    rng: np.random.Generator,
) -> dict[str, np.ndarray]:
    """Least-squares coefficients of the linear parameters at every draw, (count,) each."""
    lanes = {name: value[:, None] for name, value in values.items()}
    columns = {
        n: problem.columns[n] for n in {*form.columns, "params", "tokens"} if n in problem.columns
    }
    count = len(next(iter(values.values()))) if values else 1
    rows = (count, len(problem.loss))

    def at(**coefficients: float) -> np.ndarray:
        zeros: dict[str, Any] = dict.fromkeys(linear, 0.0)
        for name, other in form.tied.items():
            if other in linear:
                zeros[name] = coefficients.get(other, 0.0)
        return np.broadcast_to(
            engine.predict(form, {**lanes, **zeros, **coefficients}, columns), rows
        )

    constant = at()
    basis = np.stack([at(**{name: 1.0}) - constant for name in linear], axis=-1)
    norms = np.maximum(np.linalg.norm(basis, axis=1), 1e-300)
    positive = np.array([p.positive for p in form.fitted if p.name in linear])
    solved = _positive_squares(basis / norms[:, None], problem.loss - constant, positive, rng)
    return {name: solved[:, i] / norms[:, i] for i, name in enumerate(linear)}


def _positive_squares(
    basis: np.ndarray, target: np.ndarray, positive: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Least squares of (S, n) targets on (S, n, k) unit columns, some coefficients above zero.

    What comes out negative is set to a random share of the target and the others are solved again.
    """
    solved = _squares(basis, target)
    size = np.linalg.norm(target, axis=1, keepdims=True)
    share = rng.uniform(0.1, 0.8, solved.shape) * size
    for _ in range(basis.shape[2] - 1):
        wrong = positive & (solved < 0.01 * size)
        held = np.where(wrong, share, 0.0)
        rest = _squares(basis * ~wrong[:, None, :], target - np.sum(basis * held[:, None], axis=2))
        solved = np.where(wrong, share, rest)
    return np.where(positive & (solved < 0.01 * size), share, solved)


def _squares(basis: np.ndarray, target: np.ndarray) -> np.ndarray:
    gram = np.swapaxes(basis, 1, 2) @ basis + 1e-10 * np.eye(basis.shape[2])
    right = np.swapaxes(basis, 1, 2) @ target[..., None]
    return np.linalg.solve(gram, right)[..., 0]
