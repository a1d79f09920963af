"""The one optimizer behind every law: damped Newton in float64, thousands of fits at once.

Each lane of a batch is one fit: a start, or a resample. Lanes share the columns and differ in the
starting point, the observed losses and the weights, so a resample or a hold-out is a row of
weights and nothing is compiled again. Huber's delta begins wide and shrinks to its target, lane by
lane: the wide problem is close to least squares and has no spurious minima nearby. Tables come in
pieces of a few fixed shapes, padded with weight zero, so that a new row count compiles nothing.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.scaling.fit import newton
from gptjax.scaling.fit.newton import Derivatives
from gptjax.scaling.forms.form import Form

# Up to so many rows a program takes so many lanes of so many rows; small enough to stay in cache.
BLOCKS = ((64, 64, 64), (4096, 16, 256))
LARGEST = (1, 4096)  # of tables with more rows
AT_ONCE = 2_000_000  # lanes times rows of an objective that are in memory together
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


def values_of(form: Form, theta: Any, centres: Any, xp: Any = jnp) -> dict[str, Any]:
    """Named natural values from fitted coordinates; the last axis of `theta` is the parameter."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return _natural(form, theta, centres, xp)


def _natural(form: Form, theta: Any, centres: Any, xp: Any) -> dict[str, Any]:
    raw = {p.name: theta[..., i] for i, p in enumerate(form.fitted)}
    raw |= {name: raw[other] for name, other in form.tied.items() if other in raw}
    natural: dict[str, Any] = dict(form.constants)
    natural |= {name: form.constants[o] for name, o in form.tied.items() if o in form.constants}
    for parameter in (p for p in form.parameters if not p.scale and p.name in raw):
        value = raw[parameter.name]
        natural[parameter.name] = xp.exp(value) if parameter.positive else value
    for parameter in (p for p in form.parameters if p.scale and p.name in raw):
        shift = sum(s * exponent_of(natural, power) * centres[c] for c, power, s in parameter.scale)
        natural[parameter.name] = xp.exp(raw[parameter.name] + shift)
    for factor, bend, shift, column in form.bent:
        tilt, level, power = raw[factor], raw[shift], raw[bend]
        natural[factor] = tilt / power * xp.exp(-power * centres[column])
        natural[shift] = level - tilt / power
    return {name: natural[name] for name in form.names}


def exponent_of(values: Any, name: str) -> Any:
    """The exponent of a centring term; '1' stands for one."""
    return 1.0 if name == "1" else values[name]


def theta_of(form: Form, values: dict[str, Any], centres: dict[str, float]) -> np.ndarray:
    """Fitted coordinates from natural values: the inverse of `values_of`."""
    columns = []
    values = dict(values)
    for factor, bend, shift, column in form.bent:
        top = values[factor] * np.exp(values[bend] * centres[column])
        values |= {factor: top * values[bend], shift: values[shift] + top}
    for parameter in form.fitted:
        value = np.asarray(values[parameter.name], dtype=np.float64)
        if parameter.positive:
            value = np.log(value)
        for column, power, sign in parameter.scale:
            value = value - sign * exponent_of(values, power) * centres[column]
        columns.append(value)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)


def _residuals(form: Form, logarithmic: bool, theta: Any, data: Any, target: Any) -> Any:
    prediction = form.loss(values_of(form, theta, data["centres"]), data["columns"])
    prediction = jnp.broadcast_to(prediction, target.shape)
    return (jnp.log(prediction) if logarithmic else prediction) - target


def _huber(residual: Any, delta: Any) -> Any:
    size = jnp.abs(residual)
    return jnp.where(size <= delta, 0.5 * residual**2, delta * (size - 0.5 * delta))


OPTIMISED = {"xla_backend_optimization_level": 3, "xla_llvm_disable_expensive_passes": False}
"""XLA's defaults, whatever XLA_FLAGS say: these programs run thousands of times, and without
optimisation, as the tests compile everything else, a fit takes twice the processor time."""


@functools.partial(jax.jit, static_argnames=("form", "logarithmic"), compiler_options=OPTIMISED)
def _derivatives(
    form: Form, logarithmic: bool, theta: Any, delta: Any, data: Any, target: Any, weights: Any
) -> Any:
    """Objective, gradient, exact Hessian and its positive majorizer, packed (M, 1 + p + 2 p^2)."""

    def lane(theta, delta, target, weights):
        def residual_of(theta):
            return _residuals(form, logarithmic, theta, data, target)

        residual = residual_of(theta)
        size = jnp.abs(residual)
        inside = size <= delta
        slope = weights * jnp.where(inside, residual, delta * jnp.sign(residual))

        def both(theta):
            again, pull = jax.vjp(residual_of, theta)
            return pull(slope)[0], again

        def along(direction):
            return jax.jvp(both, (theta,), (direction,))[1]

        curvature, jacobian = jax.vmap(along)(jnp.eye(len(theta)))  # (p, p), (p, n)
        hessian = (jacobian * (weights * inside)) @ jacobian.T + curvature
        share = weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, size))
        majorizer = (jacobian * share) @ jacobian.T
        value = jnp.sum(weights * _huber(residual, delta))
        parts = (value, jacobian @ slope, hessian, majorizer)
        return jnp.concatenate([part.ravel() for part in parts])

    return jax.vmap(lane)(theta, delta, target, weights)


def _unpacked(packed: np.ndarray, size: int) -> Derivatives:
    ends = np.cumsum([1, size, size * size])
    value, gradient, hessian, majorizer = np.split(packed, ends, axis=1)
    square = (len(packed), size, size)
    return Derivatives(value[:, 0], gradient, hessian.reshape(square), majorizer.reshape(square))


def _block(rows: int) -> tuple[int, int]:
    """(lanes, rows) of the arrays that a program is compiled for, by the rows of a table."""
    return next(((lanes, size) for most, lanes, size in BLOCKS if rows <= most), LARGEST)


def _pieces(array: np.ndarray, rows: int, fill: float | None = None) -> list[np.ndarray]:
    """The last axis in pieces of `rows`, the last one padded by its end or by `fill`."""
    pieces = [array[..., start : start + rows] for start in range(0, array.shape[-1], rows)]
    pieces[-1] = _pad_rows(pieces[-1], rows, fill)
    return pieces


def _pad_rows(array: np.ndarray, rows: int, fill: float | None = None) -> np.ndarray:
    """Repeat the last row (or `fill`) up to `rows`, along the last axis."""
    missing = rows - array.shape[-1]
    if not missing:
        return array
    tail = array[..., -1:] if fill is None else np.full((*array.shape[:-1], 1), fill)
    return np.concatenate([array, np.repeat(tail, missing, axis=-1)], axis=-1)


def _data(problem: Problem, rows: int) -> list[dict[str, Any]]:
    """The columns that the form reads, in pieces of `rows`, with their centres."""
    needed = sorted({"params", "tokens", *problem.form.columns} & set(problem.columns))
    pieces = {name: _pieces(problem.columns[name], rows) for name in needed}
    return [
        {"columns": {n: pieces[n][i] for n in needed}, "centres": problem.centres}
        for i in range(-(-len(problem.loss) // rows))
    ]


def solve(
    problem: Problem,
    theta: np.ndarray,
    *,
    weights: np.ndarray | None = None,
    target: np.ndarray | None = None,
    held: np.ndarray | None = None,
    widen: float = WIDEN,
    tolerance: float = TOLERANCE,
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
    )
    value = objective(problem, state.theta, weights, target)
    return Solution(state.theta, value, state.done & np.isfinite(value), state.count)


def _evaluator(problem: Problem, weights: np.ndarray, target: np.ndarray) -> newton.Evaluate:
    """Derivatives by the compiled program, in blocks of one shape so that it compiles once."""
    width, rows = _block(len(problem.loss))
    size = len(problem.form.fitted)
    call = functools.partial(_derivatives, problem.form, problem.logarithmic)
    with jax.enable_x64(True):
        columns = [jax.device_put(piece) for piece in _data(problem, rows)]
    parts = list(zip(columns, _pieces(target, rows), _pieces(weights, rows, 0.0), strict=True))

    def evaluate(theta: np.ndarray, delta: np.ndarray, lanes: np.ndarray) -> Derivatives:
        found = []
        with jax.enable_x64(True):
            for start in range(0, len(lanes), width):
                index = np.minimum(np.arange(start, start + width), len(lanes) - 1)
                at, switch, own = theta[index], delta[index], lanes[index]
                sums = [np.asarray(call(at, switch, d, t[own], w[own])) for d, t, w in parts]
                found.append(np.sum(sums, axis=0)[: len(lanes) - start])
        return _unpacked(np.concatenate(found), size)

    return evaluate


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
    values = values_of(problem.form, theta, problem.centres, np)
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
    n = len(problem.loss)
    rows = _block(n)[1]
    with jax.enable_x64(True):
        found = [
            _jacobian(problem.form, problem.logarithmic, theta, data, target)
            for data, target in zip(
                _data(problem, rows), _pieces(problem.target, rows), strict=True
            )
        ]
        residual, matrix = (np.concatenate(part)[:n] for part in zip(*found, strict=True))
        return residual, matrix


@functools.partial(jax.jit, static_argnames=("form", "logarithmic"), compiler_options=OPTIMISED)
def _jacobian(form: Form, logarithmic: bool, theta: Any, data: Any, target: Any):
    def residual_of(theta):
        return _residuals(form, logarithmic, theta, data, target)

    return residual_of(theta), jax.jacfwd(residual_of)(theta)


def predict(form: Form, values: dict[str, Any], columns: dict[str, Any]) -> np.ndarray:
    """The form's loss in float64, for any broadcastable shapes."""
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(form.loss(values, columns), dtype=np.float64)
