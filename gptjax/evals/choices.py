"""Multiple choice by likelihood: the likeliest continuation, or the likeliest letter.

Both normalisations are reported: `acc` takes the choice of the largest Σ log p, `acc_norm` that of
the largest Σ log p for each character, as HellaSwag is scored.
"""

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.evals.result import Result
from gptjax.evals.score import TOKENS, Request, fits, score
from gptjax.evals.statistics import Mean, mean
from gptjax.evals.text import request_of
from gptjax.infer.model import Model

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclasses.dataclass(frozen=True)
class Item:
    """A question with its choices.

    Attributes:
      answer: the place of the right choice.
      domain: a subject, a level: scores are also given by it.
      document: items of one document have errors in common.
    """

    question: str
    choices: tuple[str, ...]
    answer: int
    domain: str = ""
    document: str = ""


def continued(item: Item) -> tuple[str, tuple[str, ...]]:
    """(context, continuations): the choices as texts that go on."""
    return item.question, tuple(f" {choice}" for choice in item.choices)


def joined(item: Item) -> tuple[str, tuple[str, ...]]:
    """(context, continuations): the choices follow without a space, as code does."""
    return item.question, item.choices


def lettered(item: Item) -> tuple[str, tuple[str, ...]]:
    """(context, continuations): the choices are listed, and their letters go on (MMLU).

    Raises:
      UserError: for more choices than letters.
    """
    if len(item.choices) > len(LETTERS):
        raise UserError(
            f"evaluate.style=letter has {len(LETTERS)} letters, and an item has "
            f"{len(item.choices)} choices; give style=continuation"
        )
    named = zip(LETTERS, item.choices, strict=False)
    lines = "\n".join(f"{letter}. {choice}" for letter, choice in named)
    return f"{item.question}\n{lines}\nAnswer:", tuple(
        f" {c}" for c in LETTERS[: len(item.choices)]
    )


STYLES = {"continuation": continued, "joined": joined, "letter": lettered}
"""How an item becomes text."""


def check(items: Sequence[Item], where: str) -> None:
    """Refuse items that cannot be scored.

    Raises:
      UserError: for no items, fewer than two choices, empty ones, or an answer beyond them.
    """
    if not items:
        raise UserError(f"{where} has no items; give one JSON object a line")
    for number, item in enumerate(items, start=1):
        place = f"{where} item {number}"
        if len(item.choices) < 2 or not all(item.choices):
            raise UserError(
                f"{place} has choices={list(item.choices)}; give two or more, none of them empty"
            )
        if not 0 <= item.answer < len(item.choices):
            raise UserError(
                f"{place} has the answer {item.answer}, which is not among its "
                f"{len(item.choices)} choices"
            )


def evaluate(
    model: Model,
    items: Sequence[Item],
    *,
    task: str,
    shots: int = 0,
    examples: Sequence[Item] = (),
    before: str | Sequence[str] = "",
    style: str = "continuation",
    tokens: int = TOKENS,
) -> Result:
    """Score items, each after `shots` solved examples.

    Items that the context does not hold with their examples are left out and counted; where that
    is all of them, the metrics are NaN.

    Args:
      examples: where the examples are taken from, in their order, never the item itself; the items
        by default.
      before: a text before the examples, or one for each item.
      style: of STYLES.
      tokens: of a batch.

    Raises:
      UserError: for items that cannot be scored, too few examples, or items none of which the
        context holds even without examples.
    """
    check(items, task)
    pool = examples or items
    begun = [before] * len(items) if isinstance(before, str) else before
    shown = [
        text + _shown(pool, item, shots, style, task)
        for text, item in zip(begun, items, strict=True)
    ]
    asked = [_requests(model, item, text, style) for item, text in zip(items, shown, strict=True)]
    kept = [i for i, requests in enumerate(asked) if all(fits(model, r) for r in requests)]
    if not kept and not shots:
        raise UserError(
            f"{task} has no item that the context of {model.name}, {model.context} tokens, holds; "
            "give shorter items or a model with a longer context"
        )
    answers = iter(score(model, [r for i in kept for r in asked[i]], tokens=tokens))
    rows = [_row(items[i], [next(answers) for _ in asked[i]], style) for i in kept]
    return _result(task, [items[i] for i in kept], rows, items, shots)


def _shown(pool: Sequence[Item], item: Item, shots: int, style: str, task: str) -> str:
    """Solved examples before an item."""
    others = list(itertools.islice((one for one in pool if one != item), shots))
    if len(others) < shots:
        raise UserError(
            f"evaluate.shots={shots} needs as many other items for each, and {task} has "
            f"{len(others)}; give fewer shots or more items"
        )
    texts = [(STYLES[style](one), one.answer) for one in others]
    return "".join(f"{context}{choices[right]}\n\n" for (context, choices), right in texts)


def _requests(model: Model, item: Item, shown: str, style: str) -> list[Request]:
    context, choices = STYLES[style](item)
    return [request_of(model, shown + context, choice) for choice in choices]


def _row(item: Item, answers: Sequence[Any], style: str) -> dict[str, Any]:
    totals = [answer.total for answer in answers]
    lengths = [len(choice) if style != "letter" else 1 for choice in item.choices]
    each = [total / max(length, 1) for total, length in zip(totals, lengths, strict=True)]
    shares = np.exp(np.array(totals) - np.logaddexp.reduce(totals))
    bits = -totals[item.answer] / math.log(2) / len(STYLES[style](item)[1][item.answer].encode())
    return {
        "question": item.question,
        "choices": list(item.choices),
        "answer": item.answer,
        "domain": item.domain,
        "document": item.document,
        "logprobs": totals,
        "pick": int(np.argmax(totals)),
        "pick_norm": int(np.argmax(each)),
        "probabilities": shares.tolist(),
        "answer_bits_per_byte": bits,
    }


def _result(
    task: str, kept: Sequence[Item], rows: list[dict[str, Any]], items: Sequence[Item], shots: int
) -> Result:
    documents = [item.document or f"\n{i}" for i, item in enumerate(kept)]
    right = [float(row["pick"] == row["answer"]) for row in rows]
    normed = [float(row["pick_norm"] == row["answer"]) for row in rows]
    metrics = {
        "acc": mean(right, documents),
        "acc_norm": mean(normed, documents),
        "answer_bits_per_byte": mean([row["answer_bits_per_byte"] for row in rows], documents),
        "answer_probability": mean(
            [row["probabilities"][row["answer"]] for row in rows], documents
        ),
    }
    domains = [item.domain for item in kept]
    by = {
        domain: _of_domain(right, documents, domains, domain)
        for domain in dict.fromkeys(domains)
        if len(set(domains)) > 1
    }
    skipped = len(items) - len(kept)
    return Result(
        task, "acc", metrics, by, rows, _baselines(kept), skipped, _notes(items, skipped, shots)
    )


def _baselines(items: Sequence[Item]) -> dict[str, float]:
    """The score of a guess, and of the place that is right most often."""
    if not items:
        return {}
    most = Counter(item.answer for item in items).most_common(1)[0][1]
    return {
        "chance": float(np.mean([1 / len(item.choices) for item in items])),
        "majority": most / len(items),
    }


def _notes(items: Sequence[Item], skipped: int, shots: int) -> tuple[str, ...]:
    alike = sum(len(set(item.choices)) < len(item.choices) for item in items)
    after = f" after {shots} examples" if shots else ""
    said = {
        f"{skipped} of {len(items)} items{after} are longer than the context and were left out": (
            skipped
        ),
        f"{alike} of {len(items)} items have equal choices, of which the first is picked": alike,
    }
    return tuple(text for text, count in said.items() if count)


def _of_domain(values: list[float], documents: list[str], domains: list[str], domain: str) -> Mean:
    mine = [i for i, one in enumerate(domains) if one == domain]
    return mean([values[i] for i in mine], [documents[i] for i in mine])
