"""The one optimizer behind every law: damped Newton in float64, thousands of fits at once.

Each lane of a batch is one fit: a start, or a resample. Lanes share the columns and differ in the
starting point, the observed losses and the weights, so a resample or a hold-out is a row of
weights and nothing is compiled again. Huber's delta begins wide and shrinks to its target, lane by
lane: the wide problem is close to least squares and has no spurious minima nearby. Rows are padded
with weight zero to a multiple of 64 for the same reason.
"""

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.scaling.forms.form import Form

CHUNK = 64  # lanes a program advances at once; small enough to stay in cache
ROWS = 64  # row counts are padded to a multiple of this
ITERATIONS = 12  # of one program call; lanes that need more are gathered and run again
ROUNDS = 40
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


class _State(NamedTuple):
    theta: Any
    delta: Any
    damping: Any
    done: Any
    count: Any
    held: Any


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


def _solve(matrix: Any, vector: Any) -> Any:
    """x of A x = b for a small symmetric A; NaN when A is not positive definite."""
    size = vector.shape[-1]
    lower: list[list[Any]] = [[None] * size for _ in range(size)]
    for j in range(size):
        pivot = matrix[j, j] - sum(lower[j][k] ** 2 for k in range(j))
        lower[j][j] = jnp.sqrt(pivot)
        for i in range(j + 1, size):
            rest = matrix[i, j] - sum(lower[i][k] * lower[j][k] for k in range(j))
            lower[i][j] = rest / lower[j][j]
    y: list[Any] = []
    for i in range(size):
        y.append((vector[i] - sum(lower[i][k] * y[k] for k in range(i))) / lower[i][i])
    x: list[Any] = [None] * size
    for i in reversed(range(size)):
        rest = y[i] - sum(lower[k][i] * x[k] for k in range(i + 1, size))
        x[i] = rest / lower[i][i]
    return jnp.stack(x)


def _derivatives(residual_of: Any, theta: Any, weights: Any, delta: Any) -> Any:
    """Objective, gradient, exact Hessian and its positive majorizer (reweighted Gauss-Newton)."""
    residual, tangent = jax.linearize(residual_of, theta)
    jacobian = jax.vmap(tangent)(jnp.eye(len(theta)))
    size = jnp.abs(residual)
    inside = size <= delta
    slope = weights * jnp.where(inside, residual, delta * jnp.sign(residual))
    curvature = jax.jacfwd(jax.jacrev(lambda t: jnp.sum(slope * residual_of(t))))(theta)
    hessian = (jacobian * (weights * inside)) @ jacobian.T + curvature
    share = weights * jnp.where(inside, 1.0, delta / jnp.where(inside, 1.0, size))
    majorizer = (jacobian * share) @ jacobian.T
    value = jnp.sum(weights * _huber(residual, delta))
    return value, jacobian @ slope, hessian, majorizer


def _step(state: _State, value_of: Any, residual_of: Any, data: Any, weights: Any) -> _State:
    """One damped Newton step of one lane, its bookkeeping, and the shrinking of its delta."""
    theta, delta, damping, done, count, held = state
    low, high = data["low"], data["high"]
    before, gradient, hessian, majorizer = _derivatives(residual_of, theta, weights, delta)
    stuck = held | ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    free = jnp.where(stuck, 0.0, 1.0)
    gradient = gradient * free
    scale = jnp.maximum(jnp.diag(majorizer), 1e-10 * jnp.trace(majorizer)) + 1e-300
    keep = free[:, None] * free[None, :]
    pinned = jnp.diag(jnp.where(stuck, 1.0, 0.0))
    ridge = jnp.diag(damping * scale * free) + pinned
    newton = -_solve(hessian * keep + ridge, gradient)
    gauss = -_solve(majorizer * keep + ridge + 1e-12 * jnp.diag(scale * free), gradient)
    usable = jnp.all(jnp.isfinite(newton))
    step = jnp.where(usable, newton, gauss)
    solved = jnp.all(jnp.isfinite(step))
    # Shortened as a whole: shortening one coordinate alone could turn it uphill.
    step = jnp.where(solved, step / jnp.maximum(1.0, jnp.max(jnp.abs(step)) / 3.0), 0.0)
    trial = jnp.clip(theta + step, low, high)
    after = value_of(trial, delta)
    better = after < before
    expected = -jnp.dot(gradient, step)
    small = solved & (expected <= data["tolerance"] * before)
    settled = small | (damping > 1e10)
    at_target = delta <= data["delta"]
    # A wide delta needs only a rough answer, so lanes leave it early.
    leave = ~at_target & (settled | (better & (expected < 1e-3 * before)))
    new_delta = jnp.where(leave, jnp.maximum(delta / 4, data["delta"]), delta)
    new_damping = jnp.where(better, damping * 0.2, damping * 4.0)
    new_damping = jnp.clip(jnp.where(leave, 1e-4, new_damping), 1e-12, 1e12)
    return _State(
        theta=jnp.where(done | ~better, theta, trial),
        delta=jnp.where(done, delta, new_delta),
        damping=jnp.where(done, damping, new_damping),
        done=done | (at_target & settled),
        count=count + jnp.where(done, 0, 1),
        held=held,
    )


@functools.partial(jax.jit, static_argnames=("form", "logarithmic"))
def _advance(form: Form, logarithmic: bool, state: _State, data: Any, target: Any, weights: Any):
    """Run all lanes until they are done or the iterations are spent."""

    def lane(state, target, weights):
        def residual_of(theta):
            return _residuals(form, logarithmic, theta, data, target)

        def value_of(theta, delta):
            return jnp.sum(weights * _huber(residual_of(theta), delta))

        return _step(state, value_of, residual_of, data, weights)

    def body(carry):
        i, state = carry
        return i + 1, jax.vmap(lane)(state, target, weights)

    def unfinished(carry):
        i, state = carry
        return (i < ITERATIONS) & ~jnp.all(state.done)

    return jax.lax.while_loop(unfinished, body, (0, state))[1]


def _pad_rows(array: np.ndarray, rows: int, fill: float | None = None) -> np.ndarray:
    """Repeat the last row (or `fill`) up to `rows`, along the last axis."""
    missing = rows - array.shape[-1]
    tail = array[..., -1:] if fill is None else np.full((*array.shape[:-1], 1), fill)
    return np.concatenate([array, np.repeat(tail, missing, axis=-1)], axis=-1)


def _data(problem: Problem, rows: int) -> dict[str, Any]:
    low, high = problem.bounds
    needed = {"params", "tokens", *problem.form.columns} & set(problem.columns)
    return {
        "columns": {name: _pad_rows(problem.columns[name], rows) for name in sorted(needed)},
        "centres": problem.centres,
        "low": low,
        "high": high,
        "delta": effective_delta(problem),
    }


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
    rows = -(-n // ROWS) * ROWS
    weights = problem.weights[None] if weights is None else weights
    target = problem.target[None] if target is None else target
    weights = _pad_rows(np.broadcast_to(weights, (lanes, n)), rows, 0.0)
    target = _pad_rows(np.broadcast_to(target, (lanes, n)), rows)
    with jax.enable_x64(True):
        data = _data(problem, rows) | {"tolerance": tolerance}
        delta = data["delta"]
        spread = max(delta * widen, 1e-1) if widen > WIDEN / 2 else delta * widen
        if problem.kind.startswith("squares"):
            spread = delta
        low, high = problem.bounds
        state = _State(
            np.clip(np.asarray(theta, np.float64), low, high),
            np.full(lanes, spread),
            np.full(lanes, 1e-2),
            np.zeros(lanes, bool),
            np.zeros(lanes, np.int32),
            np.zeros(np.shape(theta), bool) if held is None else held,
        )
        state = _run(problem, state, data, target, weights)
    value = objective(problem, state.theta, weights[:, :n], target[:, :n])
    return Solution(state.theta, value, state.done & np.isfinite(value), state.count)


def objective(
    problem: Problem, theta: np.ndarray, weights: np.ndarray, target: np.ndarray
) -> np.ndarray:
    """The sum over runs at each lane, (M,), in the units of the loss kind."""
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


def _run(problem: Problem, state: Any, data: Any, target: Any, weights: Any) -> _State:
    """Advance all lanes chunk by chunk; those that need more are gathered and run on."""
    fields = [np.array(field) for field in state]
    advance = functools.partial(_advance, problem.form, problem.logarithmic)
    for _ in range(ROUNDS):
        left = np.flatnonzero(~fields[3])
        if not len(left):
            break
        part = _State(*(field[left] for field in fields))
        moved = _in_chunks(advance, part, data, target[left], weights[left])
        for field, new in zip(fields, moved, strict=True):
            field[left] = new
    return _State(*fields)


def _in_chunks(function: Any, state: Any, data: Any, target: Any, weights: Any) -> Any:
    """Call a batched function on lanes in pieces of one size, so that it compiles once."""
    lanes = len(target)
    results = []
    for start in range(0, lanes, CHUNK):
        index = np.minimum(np.arange(start, start + CHUNK), lanes - 1)
        piece = jax.tree.map(lambda leaf, index=index: leaf[index], state)
        result = function(piece, data, target[index], weights[index])
        keep = min(CHUNK, lanes - start)
        results.append(jax.tree.map(lambda leaf, keep=keep: np.asarray(leaf)[:keep], result))
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *results)


def jacobian(problem: Problem, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) and their derivatives (n, p) at one point, in (log) loss."""
    n = len(problem.loss)
    rows = -(-n // ROWS) * ROWS
    with jax.enable_x64(True):
        data = _data(problem, rows)
        data = {"columns": data["columns"], "centres": data["centres"]}
        target = _pad_rows(problem.target, rows)
        residual, matrix = _jacobian(problem.form, problem.logarithmic, theta, data, target)
        return np.asarray(residual)[:n], np.asarray(matrix)[:n]


@functools.partial(jax.jit, static_argnames=("form", "logarithmic"))
def _jacobian(form: Form, logarithmic: bool, theta: Any, data: Any, target: Any):
    def residual_of(theta):
        return _residuals(form, logarithmic, theta, data, target)

    return residual_of(theta), jax.jacfwd(residual_of)(theta)


def predict(form: Form, values: dict[str, Any], columns: dict[str, Any]) -> np.ndarray:
    """The form's loss in float64, for any broadcastable shapes."""
    with jax.enable_x64(True), np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return np.asarray(form.loss(values, columns), dtype=np.float64)
