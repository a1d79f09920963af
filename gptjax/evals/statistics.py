"""Means of scores with standard errors, by item and by document, and paired differences."""

import dataclasses
import math
from collections.abc import Hashable, Sequence

import numpy as np


@dataclasses.dataclass(frozen=True)
class Mean:
    """A mean and its standard errors.

    Attributes:
      value: the mean.
      stderr: over items.
      stderr_by_document: over documents, whose items are alike; NaN for one document.
      count: items.
    """

    value: float
    stderr: float
    stderr_by_document: float
    count: int


def mean(values: Sequence[float] | np.ndarray, documents: Sequence[Hashable] | None = None) -> Mean:
    """The mean of one value an item: s/√n, and √(Σ_d (Σ_(i∈d) (x_i − x̄))² · d/(d−1)) / n.

    >>> mean([0.0, 1.0, 1.0, 0.0]).value
    0.5
    """
    x = np.asarray(values, np.float64)
    ones = np.ones(len(x))
    groups = list(range(len(x))) if documents is None else list(documents)
    by_item = ratio(x, ones, range(len(x)))
    return Mean(by_item[0], by_item[1], ratio(x, ones, groups)[1], len(x))


def ratio(
    sums: Sequence[float] | np.ndarray,
    counts: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable] | range,
) -> tuple[float, float]:
    """(Σ sums / Σ counts, its standard error over groups): a loss per token over documents.

    The error is that of a ratio by linearisation, √(d/(d−1) Σ_d (S_d − r C_d)²) / Σ C.
    """
    s, c = np.asarray(sums, np.float64), np.asarray(counts, np.float64)
    if not len(s) or not c.sum():
        return math.nan, math.nan
    value = float(s.sum() / c.sum())
    _, place = np.unique(np.array([str(g) for g in groups]), return_inverse=True)
    d = int(place.max()) + 1
    if d < 2:
        return value, math.nan
    left = np.bincount(place, s - value * c)
    return value, float(np.sqrt(d / (d - 1) * np.sum(left**2)) / c.sum())


@dataclasses.dataclass(frozen=True)
class Difference:
    """The mean of paired differences of two models on the same items, with its 95 % interval."""

    value: float
    stderr: float
    low: float
    high: float


def paired(
    first: Sequence[float],
    second: Sequence[float],
    documents: Sequence[Hashable] | None = None,
    weights: Sequence[float] | None = None,
) -> Difference:
    """First minus second; the error is by document where documents are given.

    Args:
      weights: bytes of each item, say, where its values are sums: Σ differences / Σ weights.

    >>> paired([1, 1, 0], [1, 0, 0]).value
    0.3333333333333333
    >>> paired([4, 1], [2, 1], weights=[3, 1]).value
    0.5
    """
    difference = np.asarray(first, np.float64) - np.asarray(second, np.float64)
    counts = np.ones(len(difference)) if weights is None else weights
    groups = range(len(difference)) if documents is None else documents
    value, error = ratio(difference, counts, groups)
    return Difference(value, error, value - 1.96 * error, value + 1.96 * error)
