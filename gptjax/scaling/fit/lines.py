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
    """Least squares in logarithms, points weighted by how well each is known.

    Args:
      flops, values: (V,) points.
      samples: (R, V) resampled values; points that are not finite are skipped in their resample.
      confidence, freedom: of the intervals.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        logs = np.log(samples)
    weights = line_weights(np.log(flops), np.log(values), logs)
    constant, slope = line_fit(np.log(flops), np.log(values)[None], weights)
    constants, slopes = line_fit(np.log(flops), logs, weights)
    return PowerLine(
        float(constant[0]), float(slope[0]), constants, slopes, confidence, max(freedom, 1)
    )


def line_weights(x: np.ndarray, y: np.ndarray, samples: np.ndarray) -> np.ndarray:
    """Weights (V,) of points on a line: 1 / (own variance + what the points vary beyond it).

    The own variance is that of the resamples, by their quartiles; the rest is DerSimonian and
    Laird's estimate (1986), 0 where resampling explains all. Without resamples all count alike.
    """
    if len(samples) < 20 or len(x) < 3:
        return np.ones(len(x))
    low, high = np.nanquantile(samples, [0.25, 0.75], axis=0)
    own = np.maximum(((high - low) / 1.349) ** 2, 1e-18)
    weights = 1 / own
    constant, slope = line_fit(x, y[None], weights)
    excess = np.sum(weights * (y - constant - slope * x) ** 2) - (len(x) - 2)
    scale = np.sum(weights) - np.sum(weights**2) / np.sum(weights)
    weights = 1 / (own + max(excess / scale, 0.0))
    return weights / weights.mean()


def line_fit(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Intercepts and slopes of (R, V) `y` on `x` (V,) or (R, V), ignoring what is not finite."""
    good = np.isfinite(y) & np.isfinite(x)
    share = np.where(good, 1.0 if weights is None else weights, 0.0)
    x = np.where(good, np.broadcast_to(x, y.shape), 0.0)
    y = np.where(good, y, 0.0)
    count = np.maximum(share.sum(1), 1e-300)
    mean_x, mean_y = np.sum(share * x, 1) / count, np.sum(share * y, 1) / count
    dx = np.where(good, x - mean_x[:, None], 0.0)
    spread = np.sum(share * dx**2, 1)
    enough = (good.sum(1) >= 2) & (spread > 1e-12)
    slope = np.sum(share * dx * (y - mean_y[:, None]), 1) / np.where(enough, spread, 1.0)
    slope = np.where(enough, slope, np.nan)
    return mean_y - slope * mean_x, slope
