"""Forms of the loss as a function of a mixture: weights r of K sources, which sum to 1.

A form is a function of its parameters with its derivatives and the points that a fit starts from,
all in NumPy: tables are small, and one is fitted hundreds of times for an interval.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

FLOORS = (0.5, 0.8, 0.95)
"""Where the constant c begins, in shares of the smallest loss."""
DECAYS = (0.1, 0.3)
"""Where the exponent a begins."""
TINY = 1e-12
"""A weight of zero in a power."""
LARGEST_LOG = 60.0


@dataclasses.dataclass(frozen=True)
class MixtureForm:
    """A form of the loss.

    Attributes:
      equation, paper: in words.
      count: how many parameters it has for K sources.
      value: (theta, weights_RK) → R losses in nats.
      by_theta: → (R, p) derivatives by the parameters.
      by_weights: → (R, K) derivatives by the weights.
      starts: (weights_RK, losses_R) → points from which a fit begins.
    """

    name: str
    equation: str
    paper: str
    count: Callable[[int], int]
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_theta: Callable[[np.ndarray, np.ndarray], np.ndarray]
    by_weights: Callable[[np.ndarray, np.ndarray], np.ndarray]
    starts: Callable[[np.ndarray, np.ndarray], list[np.ndarray]]


def _solve(weights_RK: np.ndarray, targets_R: np.ndarray) -> np.ndarray:
    return np.linalg.lstsq(weights_RK, targets_R, rcond=None)[0]


def _exp(logs: np.ndarray) -> np.ndarray:
    return np.exp(np.clip(logs, -LARGEST_LOG, LARGEST_LOG))


LINEAR = MixtureForm(
    name="linear",
    equation="L = Σ t_i r_i",
    paper="least squares, the baseline of Liu et al. (2024), RegMix",
    count=lambda sources: sources,
    value=lambda theta, weights_RK: weights_RK @ theta,
    by_theta=lambda theta, weights_RK: weights_RK,
    by_weights=lambda theta, weights_RK: np.broadcast_to(theta, weights_RK.shape),
    starts=lambda weights_RK, losses_R: [_solve(weights_RK, losses_R)],
)

LOG_LINEAR = MixtureForm(
    name="log_linear",
    equation="log L = Σ t_i r_i",
    paper="log-linear regression, as in Chen et al. (2026), Olmix, without its constant",
    count=lambda sources: sources,
    value=lambda theta, weights_RK: _exp(weights_RK @ theta),
    by_theta=lambda theta, weights_RK: _exp(weights_RK @ theta)[:, None] * weights_RK,
    by_weights=lambda theta, weights_RK: _exp(weights_RK @ theta)[:, None] * theta,
    starts=lambda weights_RK, losses_R: [_solve(weights_RK, np.log(losses_R))],
)


def _exponential_starts(weights_RK: np.ndarray, losses_R: np.ndarray) -> list[np.ndarray]:
    floors = [share * losses_R.min() for share in FLOORS]
    return [np.r_[c, _solve(weights_RK, np.log(losses_R - c))] for c in floors]


EXPONENTIAL = MixtureForm(
    name="exponential",
    equation="L = c + exp(Σ t_i r_i)",
    paper="Ye et al. (2024), arXiv 2403.16952, equation 6; its factor k is in the t_i, as Σ r = 1",
    count=lambda sources: sources + 1,
    value=lambda theta, weights_RK: theta[0] + _exp(weights_RK @ theta[1:]),
    by_theta=lambda theta, weights_RK: np.c_[
        np.ones(len(weights_RK)), _exp(weights_RK @ theta[1:])[:, None] * weights_RK
    ],
    by_weights=lambda theta, weights_RK: _exp(weights_RK @ theta[1:])[:, None] * theta[1:],
    starts=_exponential_starts,
)


def _effective(theta: np.ndarray, weights_RK: np.ndarray) -> tuple[np.ndarray, ...]:
    """a, b, the (R, K) contributions and their sums."""
    a, b, worths_K = _exp(theta[0]), _exp(theta[1]), _exp(theta[2:])
    parts_RK = worths_K * np.maximum(weights_RK, TINY) ** b
    return a, b, parts_RK, parts_RK.sum(1)


def _effective_value(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
    a, _, _, sums_R = _effective(theta, weights_RK)
    return sums_R**-a


def _effective_by_theta(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
    a, b, parts_RK, sums_R = _effective(theta, weights_RK)
    losses_R = sums_R**-a
    shares_RK = parts_RK / sums_R[:, None]
    logs_RK = np.log(np.maximum(weights_RK, TINY))
    by_a = -a * np.log(sums_R) * losses_R
    by_b = -a * losses_R * b * (shares_RK * logs_RK).sum(1)
    return np.c_[by_a, by_b, -a * losses_R[:, None] * shares_RK]


def _effective_by_weights(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
    a, b, parts_RK, sums_R = _effective(theta, weights_RK)
    steep_RK = parts_RK * b / np.maximum(weights_RK, TINY)
    return (-a * sums_R ** (-a - 1))[:, None] * steep_RK


def _effective_starts(weights_RK: np.ndarray, losses_R: np.ndarray) -> list[np.ndarray]:
    """With b = 1 the law is linear once a is known."""
    found = []
    for a in DECAYS:
        worths_K = _solve(weights_RK, losses_R ** (-1 / a))
        worths_K = np.maximum(worths_K, 1e-3 * max(np.abs(worths_K).max(), TINY))
        found.append(np.r_[np.log(a), 0.0, np.log(worths_K)])
    return found


EFFECTIVE_DATA = MixtureForm(
    name="effective_data",
    equation="L = (Σ w_i r_i^b)^-a",
    paper="a power law in effective data: a share r_i is worth w_i r_i^b, with b < 1 where more of "
    "the same helps less",
    count=lambda sources: sources + 2,
    value=_effective_value,
    by_theta=_effective_by_theta,
    by_weights=_effective_by_weights,
    starts=_effective_starts,
)

MIXTURE_FORMS: dict[str, MixtureForm] = {
    form.name: form for form in (LINEAR, LOG_LINEAR, EXPONENTIAL, EFFECTIVE_DATA)
}
"""By name: the choices of `mixture_law.form`."""
