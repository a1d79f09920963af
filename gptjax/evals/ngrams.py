"""D_KL(P_data‖P_model) of n-grams, from a text and a text that the model wrote.

Counts of the model's text are smoothed by adding `alpha` to each n-gram of the union of both texts,
since one n-gram that it never wrote would make the divergence infinite. The estimate is biased
upwards in finite texts; the same estimate between two halves of the data says by how much.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gptjax.errors import UserError
from gptjax.evals.result import Result
from gptjax.evals.statistics import Mean
from gptjax.evals.text import prefix_of
from gptjax.infer import Sampling, generate
from gptjax.infer.model import Model

ROWS = 32
"""Texts that the model writes side by side."""
ROUNDS = 64
"""Batches after which a model whose texts end at once is not asked for more."""


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
    half = len(data) // 2
    halves = counts(data[:half], n), counts(data[half:], n)
    return _compared(counts(data, n), counts(written, n), *halves, alpha)


def _compared(
    data: Counter, written: Counter, half: Counter, other: Counter, alpha: float
) -> Divergence:
    seen = sum(count for gram, count in data.items() if gram in written) / data.total()
    floor = smoothed(half, other, alpha)
    return Divergence(smoothed(data, written, alpha), floor, alpha, seen)


def compare_written(
    model: Model,
    texts: Sequence[str],
    *,
    n: int = 5,
    written: int = 8192,
    alpha: float = 0.5,
    seed: int = 0,
    task: str = "ngrams",
) -> Result:
    """The divergence of n-grams between the beginnings of texts and texts that the model begins.

    Every second text is the data. The model writes as many n-grams as the other texts have, at most
    `written`, so the divergence between the two halves of the texts, `floor`, has the same bias as
    that of the model, and `excess` is what is left beyond it.

    Args:
      texts: each from its first token, as far as the model's context.
      alpha: added to the count of each n-gram.
      seed: of what the model writes.

    Raises:
      UserError: for texts of too few n-grams.
    """
    length = max((model.context or model.config.seq_len) - 1, 1)
    start, end = prefix_of(model), model.end_ids[0]
    kept = [[*model.encode(text), end][:length] for text in texts]
    data, other = (_counted(kept[half::2], n) for half in (0, 1))
    if min(data.total(), other.total()) < n:
        raise UserError(
            f"{task} has {len(texts)} texts with {data.total()} and {other.total()} {n}-grams in "
            "their halves; give more of evaluate.texts, or fewer of evaluate.ngram"
        )
    other = _counted(_cut(kept[1::2], n, written), n)
    made = _cut(_written(model, start, length, n, other.total(), seed), n, other.total())
    found = _compared(data, _counted(made, n), data, other, alpha)
    return _result(task, model, made, found, n)


def _counted(texts: Sequence[Sequence[int]], n: int) -> Counter:
    """n-grams within texts."""
    found: Counter = Counter()
    for ids in texts:
        found.update(counts(ids, n))
    return found


def _cut(texts: Sequence[Sequence[int]], n: int, grams: int) -> list[Sequence[int]]:
    """Texts up to so many n-grams in all."""
    kept: list[Sequence[int]] = []
    for ids in texts:
        if grams > 0:
            kept.append(ids[: grams + n - 1])
            grams -= max(len(kept[-1]) - n + 1, 0)
    return kept


def _written(
    model: Model, start: int, length: int, n: int, grams: int, seed: int
) -> list[Sequence[int]]:
    """Texts that the model begins, at temperature 1."""
    made: list[Sequence[int]] = []
    for number in range(ROUNDS):
        key = jax.random.fold_in(jax.random.key(seed), number)
        answers = generate(model, [[start]] * ROWS, Sampling(max_tokens=length), key)
        made += [answer.tokens for answer in answers]
        if sum(max(len(ids) - n + 1, 0) for ids in made) >= grams:
            return made
    return made


def _result(
    task: str, model: Model, made: Sequence[Sequence[int]], found: Divergence, n: int
) -> Result:
    def known(value: float) -> Mean:
        return Mean(value, float("nan"), float("nan"), len(made))

    items: list[dict[str, Any]] = [
        {"written": model.decode(ids).decode("utf-8", "replace"), "tokens": len(ids)}
        for ids in made
    ]
    metrics = {
        "divergence": known(found.value),
        "floor": known(found.floor),
        "excess": known(found.value - found.floor),
        "seen": known(found.seen),
    }
    by = {"written by the model": metrics["divergence"], "other texts": metrics["floor"]}
    note = (
        f"{n}-grams smoothed by {found.alpha:g} for each; other texts of the same number of "
        f"{n}-grams are {found.floor:.3f} nats from the data, which is the estimate's bias"
    )
    return Result(task, "divergence", metrics, by, items, notes=(note,), higher=False)


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
