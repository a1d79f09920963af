"""Memorization: texts that a model continues word for word, and how much likelier the truth is.

Extraction as in Carlini et al. 2022, "Quantifying Memorization Across Neural Language Models"
(greedy continuation of k tokens), exposure as in Carlini et al. 2019, "The Secret Sharer".
"""

import itertools
import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.evals.result import Result
from gptjax.evals.score import TOKENS, Request, score
from gptjax.evals.statistics import mean
from gptjax.evals.text import prefix_of, request_of
from gptjax.infer.model import Model


def memorization(
    model: Model,
    texts: Sequence[str],
    *,
    prefix: int = 32,
    length: int = 16,
    others: int = 8,
    seed: int = 0,
    tokens: int = TOKENS,
    task: str = "memorization",
) -> Result:
    """The share of texts whose next `length` tokens the model gives greedily after `prefix` ones.

    The ratio is ln P(true) − ln P(other), the mean over continuations of other texts in its place.

    Args:
      texts: each is tried once, at its beginning; shorter ones are left out and counted.
      others: continuations of other texts that each is compared with.

    Raises:
      UserError: where no text, or fewer than two, are long enough.
    """
    ids = [[prefix_of(model), *model.encode(text)] for text in texts]
    kept = [one[: prefix + length + 1] for one in ids if len(one) > prefix + length]
    if len(kept) < 2:
        raise UserError(
            f"{task} has {len(kept)} texts of {prefix + length} tokens; give two or more, or "
            "fewer of evaluate.prefix"
        )
    rng, requests = random.Random(seed), []
    ends = [tuple(one[-length:]) for one in kept]
    drawn = []
    for i, one in enumerate(kept):
        mine = rng.sample([j for j in range(len(kept)) if j != i], min(others, len(kept) - 1))
        drawn.append(mine)
        context = tuple(one[:-length])
        requests += [Request(context, ends[i]), *(Request(context, ends[j]) for j in mine)]
    found = iter(score(model, requests, tokens=tokens))
    rows: list[dict[str, Any]] = []
    for i, mine in enumerate(drawn):
        true, rest = next(found), [next(found).total for _ in mine]
        ratio = true.total - float(np.mean(rest))
        rows.append({"text": i, "extracted": float(true.greedy), "log_ratio": ratio})
    metrics = {
        "extracted": mean([row["extracted"] for row in rows]),
        "log_ratio": mean([row["log_ratio"] for row in rows]),
    }
    left = len(texts) - len(kept)
    notes = (f"{left} texts are shorter than {prefix + length} tokens",) if left else ()
    return Result(task, "extracted", metrics, {}, rows, {}, left, notes)


def exposure(
    model: Model,
    before: str,
    secret: str,
    *,
    alphabet: str = "0123456789",
    after: str = "",
    tokens: int = TOKENS,
) -> tuple[float, int, int]:
    """(exposure in bits, rank of the secret, how many candidates): log2 |R| − log2 rank.

    Every candidate of the alphabet of the secret's length is scored, so the rank is exact; of equal
    candidates the secret counts as the last.

    Args:
      before, after: the canary's text about its secret.

    Raises:
      UserError: for a secret that is not of the alphabet, or more than a million candidates.
    """
    count = len(alphabet) ** len(secret)
    if not secret or not set(secret) <= set(alphabet):
        raise UserError(f"the secret {secret!r} is not written in {alphabet!r}")
    if count > 1_000_000:
        raise UserError(
            f"a secret of {len(secret)} of {len(alphabet)} has {count} candidates; fewer"
        )
    texts = ["".join(one) for one in itertools.product(alphabet, repeat=len(secret))]
    found = score(model, [request_of(model, before, text + after) for text in texts], tokens=tokens)
    totals = np.array([one.total for one in found])
    rank = int(np.sum(totals >= totals[texts.index(secret)]))
    return math.log2(count) - math.log2(rank), rank, count
