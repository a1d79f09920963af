"""Best-of-n sampling from one pool of answers: its expected reward and its KL divergence."""

import math
from collections.abc import Sequence

import numpy as np


def kl_bound(n: int) -> float:
    """log n − (n − 1)/n nats, of best of n from the policy (Stiennon et al. 2020, appendix G.3).

    Exact where no two answers are equal or rank alike, an upper bound otherwise (Beirami et al.
    2024, arXiv:2401.01879, theorem 1).

    >>> kl_bound(1), round(kl_bound(16), 3)
    (0.0, 1.835)
    """
    return math.log(n) - (n - 1) / n


def expected(rank_GN: np.ndarray, value_GN: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """The mean value of the answer that ranks first among n, for each n, (G, len(sizes)).

    The unbiased estimator over all subsets of the N answers of a prompt (Nakano et al. 2021,
    arXiv:2112.09332, appendix I): Σ_i C(i − 1, n − 1)/C(N, n) v_(i), in rising order of rank.

    >>> rank, value = np.array([[3.0, 1.0, 2.0]]), np.array([[9.0, 0.0, 6.0]])
    >>> expected(rank, value, [1, 2, 3]).round(9).tolist()
    [[5.0, 8.0, 9.0]]
    """
    count = rank_GN.shape[1]
    order_GN = np.argsort(rank_GN, axis=1, kind="stable")
    sorted_GN = np.take_along_axis(np.asarray(value_GN, np.float64), order_GN, axis=1)
    return np.stack([sorted_GN @ _chosen(count, n) for n in sizes], axis=1)


def _chosen(count: int, n: int) -> np.ndarray:
    """P(the i-th lowest of `count` is the first of a random subset of n), i = 1 … count."""
    every = math.comb(count, n)
    return np.array([math.comb(i - 1, n - 1) / every for i in range(1, count + 1)])
