"""Valleys: the minimum of a loss over the logarithm of a size or a setting, with its doubts.

The search starts at the lowest run, since a parabola through all runs of a wide sweep says little
about the bottom: it is fitted within a factor of the minimum, again around each new minimum, and
refused where the minimum is not inside the runs. IsoFLOP profiles and best settings share it.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from numpy.polynomial import polynomial

DEGREES = (2, 3)
CUBIC_POINTS = 6  # fewest distinct values for a cubic
ROUNDS = 10
MISSES = 1.0  # the bottom is this near to the lowest run, in the range of the runs beside that
NARROWER = 1.5
OFF = "the curve's minimum is"


@dataclasses.dataclass(frozen=True)
class Curve:
    """A polynomial through the runs near a minimum.

    Attributes:
      coefficients: of y by powers of x - centre, constant first.
      centre: of x.
      used: mask of the runs that it goes through.
      x, y: the minimum; NaN without one.
      reason: why it is no valley; '' when it is one.
    """

    coefficients: np.ndarray
    centre: float
    used: np.ndarray
    x: float = np.nan
    y: float = np.nan
    reason: str = ""

    @property
    def degree(self) -> int:
        return len(self.coefficients) - 1


def design(x: np.ndarray, curve: Curve) -> np.ndarray:
    """Powers of x - centre, (n, degree + 1)."""
    return np.vander(x - curve.centre, curve.degree + 1, increasing=True)


def find(
    x: np.ndarray,
    y: np.ndarray,
    *,
    width: float,
    fewest: int,
    degree: int = 2,
    word: str = "size",
) -> Curve:
    """The valley of y over x.

    Args:
      x, y: (n,); x in logarithms.
      width: runs farther than this from the minimum are dropped.
      fewest: distinct x near the minimum that are needed.
      degree: of the polynomial; fewer than six distinct x get a parabola.
      word: what x is, in the reasons.
    """
    values, which = np.unique(np.round(x, 9), return_inverse=True)
    means = np.bincount(which, y) / np.bincount(which)
    centre = float(values[np.argmin(means)])
    none = Curve(np.full(3, np.nan), centre, np.ones(len(x), bool))
    if len(values) >= fewest and np.argmin(means) in (0, len(values) - 1):
        return dataclasses.replace(none, reason=_at_the_end(x, y, int(np.argmin(means)), word))
    curve = _around(x, y, centre, width, fewest, degree, word)
    while curve.reason.startswith(OFF):  # a cliff on one side: nearer runs say more
        width /= NARROWER
        nearer = _around(x, y, centre, width, fewest, degree, word)
        if np.isnan(nearer.coefficients[0]):
            return curve
        curve = nearer
    return curve


def _around(
    x: np.ndarray, y: np.ndarray, centre: float, width: float, fewest: int, degree: int, word: str
) -> Curve:
    """The curve within `width` of its own minimum, searched from `centre`."""
    used = np.ones(len(x), bool)
    curve = Curve(np.full(3, np.nan), centre, used)
    for _ in range(ROUNDS):
        near = np.abs(x - centre) <= width * (1 + 1e-9)
        distinct = len(np.unique(np.round(x[near], 9)))
        if distinct < fewest:
            why = f"{distinct} {word}s near the minimum; {fewest} are needed"
            return Curve(np.full(3, np.nan), centre, near, reason=why)
        curve = _fitted(x, y, near, degree if distinct >= CUBIC_POINTS else 2, fewest, word)
        if curve.reason or np.array_equal(near, used):
            return curve
        used, centre = near, curve.x
    return curve


def _fitted(
    x: np.ndarray, y: np.ndarray, used: np.ndarray, degree: int, fewest: int, word: str
) -> Curve:
    """The polynomial through the used runs and its minimum among them."""
    centre = float(np.mean(x[used]))
    u = x[used] - centre
    coefficients = polynomial.polyfit(u, y[used], degree)
    curve = Curve(coefficients, centre, used)
    place = float(bottoms(coefficients[None], u.min(), u.max())[0])
    if np.isnan(place):
        return dataclasses.replace(curve, reason=_why(coefficients, u, word))
    low = float(polynomial.polyval(place, coefficients))
    lowest = float(y[used].min())
    beside = np.argsort(np.abs(x[used] - x[used][np.argmin(y[used])]), kind="stable")[:fewest]
    if abs(low - lowest) > MISSES * np.ptp(y[used][beside]) + 1e-9 * abs(lowest):
        why = f"{OFF} {low:.4g} where the lowest run has {lowest:.4g}"
        return dataclasses.replace(curve, reason=why)
    return dataclasses.replace(curve, x=centre + place, y=low)


def _at_the_end(x: np.ndarray, y: np.ndarray, lowest: int, word: str) -> str:
    """Why there is no valley where the lowest run is the first or the last."""
    if polynomial.polyfit(x - x.mean(), y, 2)[2] < 0:
        return "the loss curves down: there is no minimum"
    return (
        f"the minimum lies above the largest {word}"
        if lowest
        else f"the minimum lies below the smallest {word}"
    )


def _why(coefficients: np.ndarray, u: np.ndarray, word: str) -> str:
    """Why a polynomial has no minimum within the runs."""
    slopes = polynomial.polyval(np.array([u.min(), u.max()]), polynomial.polyder(coefficients))
    if slopes[0] >= 0 and slopes[1] >= 0:
        return f"the minimum lies below the smallest {word}"
    if slopes[0] <= 0 and slopes[1] <= 0:
        return f"the minimum lies above the largest {word}"
    return "the loss curves down: there is no minimum"


def bottoms(coefficients: np.ndarray, low: float, high: float) -> np.ndarray:
    """Where (R, 3 or 4) polynomials have a minimum within (low, high), (R,); NaN without one."""
    c1, c2 = coefficients[:, 1], coefficients[:, 2]
    c3 = coefficients[:, 3] if coefficients.shape[1] > 3 else np.zeros_like(c2)
    with np.errstate(invalid="ignore", divide="ignore"):
        root = np.sqrt(c2**2 - 3 * c1 * c3)
        place = -c1 / (c2 + root)  # the root with positive curvature, stable as c3 goes to zero
    inside = (place > low) & (place < high) & (root > 0)
    return np.where(inside, place, np.nan)


def choose_degree(groups: Sequence[tuple[np.ndarray, np.ndarray]]) -> int:
    """The degree whose predictions of left-out runs are best, over all groups together.

    Args:
      groups: (x, y) of the used runs of every valley.
    """
    totals = dict.fromkeys(DEGREES, 0.0)
    for x, y in groups:
        if len(np.unique(np.round(x, 9))) >= CUBIC_POINTS:
            for degree in DEGREES:
                totals[degree] += float(np.sum(_left_out(x, y, degree) ** 2))
    return min(DEGREES, key=lambda degree: (totals[degree], degree))


def _left_out(x: np.ndarray, y: np.ndarray, degree: int) -> np.ndarray:
    """Errors of each run predicted by the others, (n,)."""
    left, _ = np.linalg.qr(np.vander(x - x.mean(), degree + 1))
    lever = np.clip(np.sum(left**2, axis=1), 0.0, 0.999)
    return (y - left @ (left.T @ y)) / (1 - lever)


def scatters(squares: np.ndarray, freedom: np.ndarray, prior: float = 4.0) -> np.ndarray:
    """Standard deviations of a run about each valley, shrunk towards the pooled one, (V,).

    Args:
      squares, freedom: residual sum of squares and degrees of freedom of each valley.
      prior: degrees of freedom that the pooled value counts for.
    """
    pooled = np.sum(squares) / max(np.sum(freedom), 1.0)
    return np.sqrt((squares + prior * pooled) / (freedom + prior))
