"""Power laws of the optimum through a few points: N_opt = k C^a and D_opt = k' C^b, with bands."""

import dataclasses
from typing import Any

import numpy as np

from gptjax.scaling.fit import bootstrap
from gptjax.scaling.fit.bootstrap import Interval


@dataclasses.dataclass(frozen=True)
class PowerLine:
    """ln y = constant + slope ln C, with the resampled coefficients, (R,) each."""

    constant: float
    slope: float
    constants: np.ndarray
    slopes: np.ndarray
    confidence: float
    freedom: int

    def interval(self, which: str) -> Interval:
        """Of 'slope' or 'constant'."""
        samples = {"slope": self.slopes, "constant": self.constants}[which]
        value = {"slope": self.slope, "constant": self.constant}[which]
        return bootstrap.interval(value, samples, self.confidence, self.freedom)

    def at(self, flops: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(value, low, high) at budgets."""
        logs = np.log(np.atleast_1d(np.asarray(flops, np.float64)))
        many = self.constants[:, None] + self.slopes[:, None] * logs
        low, high = bootstrap.band(many, self.confidence, self.freedom)
        return np.exp(self.constant + self.slope * logs), np.exp(low), np.exp(high)


def power_line(
    flops: np.ndarray, values: np.ndarray, samples: np.ndarray, confidence: float, freedom: int
) -> PowerLine:
    """Least squares in logarithms.

    Args:
      flops, values: (V,) points.
      samples: (R, V) resampled values; points that are not finite are skipped in their resample.
      confidence, freedom: of the intervals.
    """
    constant, slope = line_fit(np.log(flops), np.log(values)[None])
    with np.errstate(invalid="ignore", divide="ignore"):
        constants, slopes = line_fit(np.log(flops), np.log(samples))
    return PowerLine(
        float(constant[0]), float(slope[0]), constants, slopes, confidence, max(freedom, 1)
    )


def line_fit(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts and slopes of (R, V) `y` on `x` (V,) or (R, V), ignoring what is not finite."""
    good = np.isfinite(y) & np.isfinite(x)
    x = np.where(good, np.broadcast_to(x, y.shape), 0.0)
    y = np.where(good, y, 0.0)
    count = np.maximum(good.sum(1), 1)
    mean_x, mean_y = x.sum(1) / count, y.sum(1) / count
    dx = np.where(good, x - mean_x[:, None], 0.0)
    spread = np.sum(dx**2, 1)
    enough = (good.sum(1) >= 2) & (spread > 1e-12)
    slope = np.sum(dx * (y - mean_y[:, None]), 1) / np.where(enough, spread, 1.0)
    slope = np.where(enough, slope, np.nan)
    return mean_y - slope * mean_x, slope
