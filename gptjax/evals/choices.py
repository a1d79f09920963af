"""Multiple choice by likelihood: the likeliest continuation, or the likeliest letter.

Both normalisations are reported: `acc` takes the choice of the largest Σ log p, `acc_norm` that of
the largest Σ log p for each character, as HellaSwag is scored.
"""

import dataclasses
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
    """(context, continuations): the choices are listed, and their letters go on (MMLU)."""
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
    style: str = "continuation",
    tokens: int = TOKENS,
) -> Result:
    """Score items, each after `shots` solved examples.

    Args:
      examples: where the examples are taken from, in their order, never the item itself; the items
        by default.
      style: of STYLES.
      tokens: of a batch.

    Raises:
      UserError: for items that cannot be scored, too few examples, or none that the context holds.
    """
    check(items, task)
    pool = list(examples or items)
    if shots > len(pool) - (not examples):
        raise UserError(
            f"evaluate.shots={shots} needs as many other items, and {task} has {len(pool)}"
        )
    asked = [_requests(model, item, _shown(pool, item, shots, style), style) for item in items]
    kept = [i for i, requests in enumerate(asked) if all(fits(model, r) for r in requests)]
    if not kept:
        raise UserError(
            f"{task} has no item that the context of {model.name}, {model.context} tokens, holds "
            f"with evaluate.shots={shots}; give fewer shots"
        )
    answers = iter(score(model, [r for i in kept for r in asked[i]], tokens=tokens))
    rows = [_row(items[i], [next(answers) for _ in asked[i]], style) for i in kept]
    return _result(task, [items[i] for i in kept], rows, len(items) - len(kept))


def _shown(pool: Sequence[Item], item: Item, shots: int, style: str) -> str:
    """Solved examples before an item."""
    texts: list[str] = []
    for example in pool:
        if len(texts) == shots:
            break
        if example != item:
            context, choices = STYLES[style](example)
            texts.append(context + choices[example.answer] + "\n\n")
    return "".join(texts)


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


def _result(task: str, items: Sequence[Item], rows: list[dict[str, Any]], skipped: int) -> Result:
    documents = [item.document or str(i) for i, item in enumerate(items)]
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
    domains = [item.domain for item in items]
    by = {
        domain: _of_domain(right, documents, domains, domain)
        for domain in dict.fromkeys(domains)
        if len(set(domains)) > 1
    }
    most = Counter(row["answer"] for row in rows).most_common(1)[0][1]
    baselines = {
        "chance": float(np.mean([1 / len(item.choices) for item in items])),
        "majority": most / len(rows),
    }
    notes = (f"{skipped} items are longer than the context and were left out",) if skipped else ()
    return Result(task, "acc", metrics, by, rows, baselines, skipped, notes)


def _of_domain(values: list[float], documents: list[str], domains: list[str], domain: str) -> Mean:
    mine = [i for i, one in enumerate(domains) if one == domain]
    return mean([values[i] for i in mine], [documents[i] for i in mine])
