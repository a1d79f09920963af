"""Calibration: whether a probability p comes true p of the time; a temperature that mends it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError

BINS = 15


@dataclasses.dataclass(frozen=True)
class Bin:
    """A bar of a reliability diagram: predictions from `low` to `high`."""

    low: float
    high: float
    confidence: float
    accuracy: float
    count: int


@dataclasses.dataclass(frozen=True)
class Calibration:
    """How far confidences are from accuracies.

    Attributes:
      ece: Σ n_b/n |accuracy_b − confidence_b|, of the likeliest class (Guo et al. 2017, eq. 3).
      brier: mean Σ_k (p_k − y_k)² over the classes (Brier 1950); for two classes twice the binary.
      nll: mean −ln p of the right class.
      bins: bars with predictions, in equal widths.
    """

    ece: float
    brier: float
    nll: float
    bins: tuple[Bin, ...]


def calibration(
    probabilities: Sequence[Any], answers: Sequence[int], bins: int = BINS
) -> Calibration:
    """Of predictions over classes, rows of any lengths.

    >>> calibration([[0.75, 0.25]] * 4, [0, 0, 0, 1]).ece
    0.0
    """
    rows = [np.asarray(row, np.float64) for row in probabilities]
    if not rows or len(rows) != len(answers):
        raise UserError(f"{len(rows)} predictions and {len(answers)} answers; give one of each")
    best = np.array([row.max() for row in rows])
    right = np.array([row.argmax() == a for row, a in zip(rows, answers, strict=True)], float)
    brier = [float(np.sum(row**2) - 2 * row[a] + 1.0) for row, a in zip(rows, answers, strict=True)]
    nll = [-np.log(max(row[a], 1e-300)) for row, a in zip(rows, answers, strict=True)]
    made = reliability(best, right, bins)
    ece = sum(bar.count * abs(bar.accuracy - bar.confidence) for bar in made) / len(rows)
    return Calibration(float(ece), float(np.mean(brier)), float(np.mean(nll)), made)


def reliability(confidence: np.ndarray, right: np.ndarray, bins: int = BINS) -> tuple[Bin, ...]:
    """The bars that hold predictions; a bar has its upper end, the first also 0."""
    place = np.clip(np.ceil(np.asarray(confidence) * bins).astype(int) - 1, 0, bins - 1)
    return tuple(
        Bin(
            b / bins,
            (b + 1) / bins,
            float(np.mean(confidence[place == b])),
            float(np.mean(right[place == b])),
            int(np.sum(place == b)),
        )
        for b in np.unique(place)
    )


def tempered(log_p: Sequence[Sequence[float]], temperature: float) -> list[np.ndarray]:
    """softmax(log p / T) of each row."""
    made = []
    for row in log_p:
        scaled = np.asarray(row, np.float64) / temperature
        made.append(np.exp(scaled - np.logaddexp.reduce(scaled)))
    return made


def fit_temperature(log_p: Sequence[Sequence[float]], answers: Sequence[int]) -> float:
    """T of the least mean −ln softmax(log p / T), between 1/20 and 20 (Guo et al. 2017)."""
    from scipy import optimize  # slow to import

    def loss(log_t: float) -> float:
        rows = tempered(log_p, float(np.exp(log_t)))
        return -float(
            np.mean([np.log(max(r[a], 1e-300)) for r, a in zip(rows, answers, strict=True)])
        )

    found = optimize.minimize_scalar(loss, bounds=(-3.0, 3.0), method="bounded")
    return float(np.exp(found.x))


def cross_tempered(log_p: Sequence[Sequence[float]], answers: Sequence[int]) -> list[np.ndarray]:
    """Each row by the temperature that was fitted on the other half of the rows.

    Every second row is in the other half, so that no row is judged by a temperature that saw its
    answer. A lone row keeps its temperature.
    """
    rows: list[np.ndarray] = [tempered([row], 1.0)[0] for row in log_p]
    for half in (0, 1):
        others = slice(1 - half, None, 2)
        if len(rows) > 1:
            t = fit_temperature(log_p[others], answers[others])
            rows[half::2] = tempered(log_p[half::2], t)
    return rows
