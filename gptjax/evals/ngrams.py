"""D_KL(P_data‖P_model) of n-grams, from a text and a text that the model wrote.

Counts of the model's text are smoothed by adding `alpha` to each n-gram of the union of both texts,
since one n-gram that it never wrote would make the divergence infinite. The estimate is biased
upwards in finite texts; the same estimate between two halves of the data says by how much.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence

import numpy as np

from gptjax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Divergence:
    """An estimate in nats.

    Attributes:
      value: between the data and the model's text.
      floor: between two halves of the data: what the estimator says where nothing differs.
      alpha: added to each count.
      seen: share of the data's n-grams that the model's text has.
    """

    value: float
    floor: float
    alpha: float
    seen: float


def divergence(
    data: Sequence[int], written: Sequence[int], n: int = 5, alpha: float = 0.5
) -> Divergence:
    """Σ_g P_data(g) ln (P_data(g) / P_model(g)) over n-grams g.

    Raises:
      UserError: for texts shorter than two n-grams.
    """
    if min(len(data) // 2, len(written)) < n:
        raise UserError(f"texts of {len(data)} and {len(written)} tokens have too few {n}-grams")
    both, made = counts(data, n), counts(written, n)
    half = len(data) // 2
    floor = smoothed(counts(data[:half], n), counts(data[half:], n), alpha)
    total = sum(both.values())
    seen = sum(count for gram, count in both.items() if gram in made) / total
    return Divergence(smoothed(both, made, alpha), floor, alpha, seen)


def counts(ids: Sequence[int], n: int) -> Counter:
    """How often each n-gram is in a text."""
    row = [int(i) for i in ids]
    return Counter(zip(*(row[i:] for i in range(n)), strict=False))


def smoothed(data: Counter, model: Counter, alpha: float) -> float:
    """Σ P_data ln (P_data / P_model), P_model with `alpha` added over the union."""
    total = sum(data.values())
    union = len(data.keys() | model.keys())
    mass = sum(model.values()) + alpha * union
    return float(
        sum(
            count / total * np.log(count / total * mass / (model[gram] + alpha))
            for gram, count in data.items()
        )
    )


def of_markov(
    data_VV: np.ndarray, model_VV: np.ndarray, start_V: np.ndarray, begin_V: np.ndarray, n: int = 5
) -> float:
    """The exact divergence of n-grams of two Markov chains: KL(π‖ρ) + (n−1) Σ_i π_i KL(P_i‖Q_i).

    Args:
      data_VV, model_VV: transition probabilities, rows of the token before.
      start_V, begin_V: distributions of the first token; π is stationary for the data.
    """

    def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
        terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1) / np.where(q > 0, q, 1e-300)), 0)
        return terms.sum(-1)

    return float(kl(start_V, begin_V) + (n - 1) * start_V @ kl(data_VV, model_VV))
