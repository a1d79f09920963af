"""Damped Newton for many small problems at once, with Huber's delta shrinking lane by lane.

The derivatives come from a compiled program; the bookkeeping of a step is a few operations on
(lanes, parameters) arrays and stays in NumPy, since compiling it costs more than running it. A
trial point is evaluated with its derivatives, so that an accepted step needs no second evaluation.
"""

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

ITERATIONS = 480
LONGEST = 3.0  # largest change of a coordinate in one step
DIVISOR = 4.0  # by which delta shrinks
AGREE = 1e-6  # relative distance of objectives that are the same minimum


class Derivatives(NamedTuple):
    """Of the objective of each lane: (M,), (M, p), (M, p, p) and (M, p, p).

    `majorizer` is the Hessian of reweighted Gauss-Newton, never indefinite.
    """

    value: np.ndarray
    gradient: np.ndarray
    hessian: np.ndarray
    majorizer: np.ndarray

    def of(self, lanes: np.ndarray) -> "Derivatives":
        return Derivatives(*(field[lanes] for field in self))


Evaluate = Callable[[np.ndarray, np.ndarray, np.ndarray], Derivatives]
"""(theta, delta, lanes) -> derivatives of those lanes."""


@dataclasses.dataclass
class State:
    """Where each lane is, (M, ...) arrays that `minimise` changes in place.

    Attributes:
      theta: coordinates, (M, p).
      delta: Huber's switch.
      held: coordinates that stay where they are, (M, p).
      damping, done, count: of the search.
    """

    theta: np.ndarray
    delta: np.ndarray
    held: np.ndarray
    damping: np.ndarray
    done: np.ndarray
    count: np.ndarray

    @classmethod
    def at(cls, theta: np.ndarray, delta: float, held: np.ndarray) -> "State":
        lanes = len(theta)
        none = np.zeros(lanes, bool)
        damping = np.full(lanes, 1e-2)
        return cls(theta, np.full(lanes, delta), held, damping, none, np.zeros(lanes, np.int32))


def minimise(
    evaluate: Evaluate,
    state: State,
    *,
    target: float,
    bounds: tuple[np.ndarray, np.ndarray],
    tolerance: float,
    enough: int = 0,
) -> State:
    """Advance every lane until no step promises more than `tolerance` of the objective.

    Args:
      evaluate: the objective with its derivatives.
      state: where lanes begin.
      target: the delta at which a lane may end.
      bounds: limits of the coordinates, (p,) each.
      enough: lanes that have ended at the same least objective and end the search; 0: all.
    """
    known = evaluate(state.theta, state.delta, np.arange(len(state.theta)))
    stale = np.zeros(len(state.theta), bool)  # delta changed: derivatives are needed where it is
    for _ in range(ITERATIONS):
        left = np.flatnonzero(~state.done)
        if not len(left) or (enough and _agreeing(known.value[state.done]) >= enough):
            break
        at, fresh = known.of(left), ~stale[left]
        with np.errstate(all="ignore"):
            trial, expected, solved = _trial(state, at, left, bounds)
        trial = np.where(fresh[:, None], trial, state.theta[left])
        still = np.all(trial == state.theta[left], axis=1)  # more damping moves it no further
        after = evaluate(trial, state.delta[left], left)
        better = ~fresh | (after.value < at.value)
        state.theta[left] = np.where(better[:, None], trial, state.theta[left])
        for field, new in zip(known, after, strict=True):
            field[left[better]] = new[better]
        stale[left] = False
        moved = left[fresh]
        step = (at.value[fresh], better[fresh], expected[fresh], solved[fresh], still[fresh])
        stale[_settle(state, moved, *step, target, tolerance)] = True
    return state


def _agreeing(values: np.ndarray) -> int:
    """How many values are the least one."""
    return int(np.sum(values <= np.min(values) * (1 + AGREE))) if len(values) else 0


def _trial(
    state: State, at: Derivatives, left: np.ndarray, bounds: tuple[np.ndarray, np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(next point, decrease that it promises, whether there is one) of the lanes `left`."""
    low, high = bounds
    theta, gradient = state.theta[left], at.gradient
    stuck = state.held[left]
    stuck = stuck | ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    free = ~stuck
    gradient = np.where(stuck, 0.0, gradient)
    size = np.diagonal(at.majorizer, axis1=1, axis2=2)
    scale = np.maximum(size, 1e-10 * size.sum(1, keepdims=True)) + 1e-300
    keep = free[:, :, None] & free[:, None, :]
    pinned = stuck + scale * free * state.damping[left][:, None]
    newton = -_solve(_with_ridge(at.hessian * keep, pinned), gradient)
    bad = ~np.all(np.isfinite(newton), axis=1)
    if bad.any():
        ridge = pinned + 1e-12 * scale * free
        gauss = -_solve(_with_ridge(at.majorizer[bad] * keep[bad], ridge[bad]), gradient[bad])
        newton[bad] = gauss
    solved = np.all(np.isfinite(newton), axis=1)
    # Shortened as a whole: shortening one coordinate alone could turn it uphill.
    longest = np.maximum(1.0, np.max(np.abs(newton), axis=1, keepdims=True) / LONGEST)
    step = np.where(solved[:, None], newton / longest, 0.0)
    return np.clip(theta + step, low, high), -np.sum(gradient * step, axis=1), solved


def _settle(
    state: State,
    left: np.ndarray,
    before: np.ndarray,
    better: np.ndarray,
    expected: np.ndarray,
    solved: np.ndarray,
    still: np.ndarray,
    target: float,
    tolerance: float,
) -> np.ndarray:
    """Update damping, delta and what is done; the lanes whose delta changed."""
    damping, delta = state.damping[left], state.delta[left]
    settled = (solved & (still | (expected <= tolerance * before))) | (damping > 1e10)
    at_target = delta <= target
    # A wide delta needs only a rough answer, so lanes leave it early.
    leave = ~at_target & (settled | (better & (expected < 1e-3 * before)))
    damping = np.where(better, damping / 5, damping * 4)
    state.damping[left] = np.clip(np.where(leave, 1e-4, damping), 1e-12, 1e12)
    state.delta[left] = np.where(leave, np.maximum(delta / DIVISOR, target), delta)
    state.done[left] = at_target & settled
    state.count[left] += 1
    return left[leave]


def _with_ridge(matrix: np.ndarray, ridge: np.ndarray) -> np.ndarray:
    return matrix + np.eye(matrix.shape[-1]) * ridge[:, None, :]


def _solve(matrix: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """x of A x = b for (M, p, p) symmetric A; NaN where A is not positive definite."""
    size = vector.shape[1]
    rest = np.concatenate([matrix, vector[:, :, None]], axis=2)
    definite = np.ones(len(rest), bool)
    for j in range(size):
        pivot = rest[:, j, j]
        definite &= pivot > 0
        row = rest[:, j] / np.where(definite, pivot, 1.0)[:, None]
        column = rest[:, :, j].copy()
        column[:, j] = 0.0
        rest -= column[:, :, None] * row[:, None, :]
        rest[:, j] = row
    return np.where(definite[:, None], rest[:, :, -1], np.nan)
