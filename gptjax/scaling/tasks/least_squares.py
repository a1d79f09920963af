"""Damped least squares (Levenberg and Marquardt) for many weightings of the same rows at once.

Every resample of a bootstrap is a lane with weights of its own. A weak Gaussian prior on each
coordinate keeps what the rows do not identify, such as an asymptote that no run is near, where it
is usual.
"""

from collections.abc import Callable

import numpy as np

STEPS = 80
LONGEST = 2.0  # largest change of a coordinate in one step
DIFFERENCE = 1e-5
SETTLED = 1e-5  # relative gain below which no lane goes on

Predict = Callable[[np.ndarray], np.ndarray]
"""theta_Lp -> values_Ln."""


def solve(
    predict: Predict,
    target_n: np.ndarray,
    weights_Ln: np.ndarray,
    mean_p: np.ndarray,
    sd_p: np.ndarray,
    start_p: np.ndarray | None = None,
) -> np.ndarray:
    """The theta_Lp of the least Σ w (predict − target)² + Σ ((theta − mean) / sd)².

    Args:
      target_n: values, NaN where there is none.
      weights_Ln: of each row in each lane: how often it was drawn, over its variance.
      start_p: where the search begins; the mean by default.
    """
    known_n = np.isfinite(target_n)
    root_Ln = np.sqrt(np.where(known_n, weights_Ln, 0.0))
    target_n = np.where(known_n, target_n, 0.0)

    def residuals(theta_Lp: np.ndarray) -> np.ndarray:
        rows = (predict(theta_Lp) - target_n) * root_Ln
        return np.concatenate([rows, (theta_Lp - mean_p) / sd_p], axis=1)

    theta_Lp = np.tile(mean_p if start_p is None else start_p, (len(weights_Ln), 1))
    damping_L = np.full(len(weights_Ln), 1e-2)
    now_Lr = residuals(theta_Lp)
    for _ in range(STEPS):
        step_Lp = _step(residuals, theta_Lp, now_Lr, damping_L)
        trial_Lr = residuals(theta_Lp + step_Lp)
        before_L, after_L = np.sum(now_Lr**2, axis=1), np.sum(trial_Lr**2, axis=1)
        better_L = after_L < before_L
        theta_Lp = np.where(better_L[:, None], theta_Lp + step_Lp, theta_Lp)
        now_Lr = np.where(better_L[:, None], trial_Lr, now_Lr)
        damping_L = np.where(better_L, damping_L / 3, np.minimum(damping_L * 4, 1e9))
        if np.all(np.abs(before_L - after_L) <= SETTLED * before_L):
            break
    return theta_Lp


def _step(
    residuals: Predict, theta_Lp: np.ndarray, now_Lr: np.ndarray, damping_L: np.ndarray
) -> np.ndarray:
    columns = []
    for j in range(theta_Lp.shape[1]):
        moved_Lp = theta_Lp.copy()
        moved_Lp[:, j] += DIFFERENCE
        columns.append((residuals(moved_Lp) - now_Lr) / DIFFERENCE)
    jacobian_Lrp = np.stack(columns, axis=-1)
    square_Lpp = np.einsum("lrp,lrq->lpq", jacobian_Lrp, jacobian_Lrp)
    slope_Lp = np.einsum("lrp,lr->lp", jacobian_Lrp, now_Lr)
    diagonal_Lp = np.einsum("lpp->lp", square_Lpp) * damping_L[:, None]
    damped_Lpp = square_Lpp + diagonal_Lp[..., None] * np.eye(theta_Lp.shape[1])
    step_Lp = -np.linalg.solve(damped_Lpp, slope_Lp[..., None])[..., 0]
    return np.clip(step_Lp, -LONGEST, LONGEST)
