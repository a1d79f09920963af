"""Derivatives of a fit's objective by JAX, for equations of one's own that jets cannot follow.

Tables come in pieces of a few fixed shapes, padded with weight zero, so that a new row count
compiles nothing.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.scaling.fit.coordinates import values_of
from gptjax.scaling.fit.derivatives import Objective
from gptjax.scaling.fit.newton import Derivatives, Evaluate
from gptjax.scaling.forms.form import Form

# Up to so many rows a program takes so many lanes of so many rows; small enough to stay in cache.
BLOCKS = ((64, 64, 64), (4096, 16, 256))
LARGEST = (1, 4096)  # of tables with more rows


def evaluator(objective: Objective) -> Evaluate:
    """Derivatives by the compiled program, in blocks of one shape so that it compiles once."""
    width, rows = _block(objective.target.shape[1])
    size = len(objective.form.fitted)
    call = functools.partial(_derivatives, objective.form, objective.logarithmic)
    with jax.enable_x64(True):
        columns = [jax.device_put(piece) for piece in _data(objective, rows)]
    target, weights = objective.target, objective.weights
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


def jacobian(objective: Objective, theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Residuals (n,) and their derivatives (n, p) at one point."""
    target = objective.target[0]
    rows = _block(len(target))[1]
    with jax.enable_x64(True):
        found = [
            _jacobian(objective.form, objective.logarithmic, theta, data, seen)
            for data, seen in zip(_data(objective, rows), _pieces(target, rows), strict=True)
        ]
        residual, matrix = (
            np.concatenate(part)[: len(target)] for part in zip(*found, strict=True)
        )
        return residual, matrix


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


def _data(objective: Objective, rows: int) -> list[dict[str, Any]]:
    """The columns in pieces of `rows`, with their centres."""
    pieces = {name: _pieces(column, rows) for name, column in objective.columns.items()}
    return [
        {"columns": {n: pieces[n][i] for n in pieces}, "centres": objective.centres}
        for i in range(-(-objective.target.shape[1] // rows))
    ]


@functools.partial(jax.jit, static_argnames=("form", "logarithmic"), compiler_options=OPTIMISED)
def _jacobian(form: Form, logarithmic: bool, theta: Any, data: Any, target: Any) -> Any:
    def residual_of(theta):
        return _residuals(form, logarithmic, theta, data, target)

    return residual_of(theta), jax.jacfwd(residual_of)(theta)
