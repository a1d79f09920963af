"""Test-time compute: what several answers to one question are worth."""

from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import numpy as np

T = TypeVar("T")


def pass_at_k(samples: int, right: int, k: int) -> float:
    """1 − C(n − c, k)/C(n, k): the probability that one of k answers is right, without bias.

    Chen et al., "Evaluating Large Language Models Trained on Code" (2021), equation 1.

    Args:
      samples: n answers that were made, at least k.
      right: c of them.

    >>> pass_at_k(5, 2, 1), pass_at_k(5, 2, 4)
    (0.4, 1.0)
    """
    assert 0 <= right <= samples and 1 <= k <= samples
    if samples - right < k:
        return 1.0
    terms = 1.0 - k / np.arange(samples - right + 1, samples + 1)
    return round(float(1.0 - np.prod(terms)), 12)


def majority(answers: Sequence[Hashable]) -> Hashable:
    """The answer given most often, the earliest of those that are even (Wang et al., 2022).

    >>> majority(["4", "5", "5", "4", "6"])
    '4'
    """
    return Counter(answers).most_common(1)[0][0]


def best_of(answers: Sequence[T], score: Callable[[T], float]) -> T:
    """The answer with the highest score: a likelihood, or what a reward model says.

    >>> best_of(["a", "abc", "xyz"], len)
    'abc'
    """
    return max(answers, key=score)


def best_right(scores: Sequence[float], right: Sequence[bool], k: int) -> float:
    """Probability that of k answers, drawn from n without return, the one with the best score is
    right: Σ_i C(i, k − 1) right_i / C(n, k) over answers in the order of their scores, i from 0.

    Answers of one score count by their mean.

    >>> best_right([0.1, 0.3, 0.2], [False, True, False], 1)
    0.333333333333
    >>> best_right([0.1, 0.3, 0.2], [False, True, False], 3)
    1.0
    """
    n = len(scores)
    assert 1 <= k <= n
    _, group_n = np.unique(np.asarray(scores, np.float64), return_inverse=True)
    mean = np.bincount(group_n, np.asarray(right, np.float64)) / np.bincount(group_n)
    right_n = mean[np.sort(group_n)]
    # C(i, k − 1)/C(n, k) from one i to the one before, so that nothing overflows.
    weights = np.zeros(n)
    weights[n - 1] = k / n
    for i in range(n - 1, k - 1, -1):
        weights[i - 1] = weights[i] * (i - k + 1) / i
    return round(float(weights @ right_n), 12)


def majority_right(
    counts: Sequence[int], truth: int, k: int, draws: int = 2000, seed: int = 0
) -> float:
    """Probability that the majority of k answers, drawn from n without return, is right.

    Ties are right in the share of the tied.

    Args:
      counts: how often each distinct answer was given.
      truth: the number of the right one; −1: it was never given.

    >>> majority_right([3, 0], 0, 3), majority_right([1, 4], 0, 5)
    (1.0, 0.0)
    """
    if truth < 0:
        return 0.0
    if k == 1:
        return counts[truth] / sum(counts)
    rng = np.random.default_rng(seed)
    drawn = rng.multivariate_hypergeometric(np.asarray(counts), k, size=draws)
    most = drawn.max(axis=1, keepdims=True)
    ties = np.sum(drawn == most, axis=1)
    return float(np.mean((drawn[:, truth] == most[:, 0]) / ties))
