"""Needle in a haystack: how often a fact is found again, by its depth and the text's length."""

import random
from collections.abc import Sequence

import numpy as np

from gptjax.errors import UserError
from gptjax.evals.result import Result
from gptjax.evals.score import TOKENS, Request, score
from gptjax.evals.statistics import mean
from gptjax.evals.text import prefix_of
from gptjax.infer.model import Model

DEPTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
VALUES = "0123456789"
LETTERS = "ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Of keys."""
FORM = "\n{key} = {value}\n"


def needle(
    model: Model,
    filler: str,
    *,
    lengths: Sequence[int] = (),
    depths: Sequence[float] = DEPTHS,
    repeats: int = 8,
    form: str = FORM,
    seed: int = 0,
    tokens: int = TOKENS,
    task: str = "needle",
) -> Result:
    """The rate at which the value is the likeliest of ten digits where the needle is asked again.

    A text is a piece of the filler with the needle at a depth, and at its end the needle up to its
    value; a model that finds nothing scores 1/10.

    Args:
      filler: a text without the needle's key; it is repeated where it is too short.
      lengths: tokens of whole texts; by default the context, its half and its quarter.
      depths: of the needle, 0: at the beginning.
      repeats: texts at each length and depth.
      form: how the needle is written, with {key} and {value}.

    Raises:
      UserError: for a filler that is empty, or lengths that hold no needle.
    """
    if not filler:
        raise UserError(f"{task} has no text to hide a needle in; give evaluate.texts")
    lengths = tuple(lengths) or _lengths(model)
    rng, rows, requests = random.Random(seed), [], []
    skipped = sum(bool(model.context) and length > model.context for length in lengths)
    for length in lengths:
        if model.context and length > model.context:
            continue
        for depth in depths:
            for _ in range(repeats):
                ids, value, endings = haystack(model, filler, length, depth, form, rng)
                requests += [Request(ids, ending) for ending in endings]
                rows.append({"length": length, "depth": depth, "value": value})
    if not rows:
        raise UserError(f"{task} has lengths {list(lengths)} beyond the context {model.context}")
    found = score(model, requests, tokens=tokens)
    for number, row in enumerate(rows):
        digits = [one.total for one in found[number * len(VALUES) : (number + 1) * len(VALUES)]]
        row["pick"] = VALUES[int(np.argmax(digits))]
        row["right"] = float(row["pick"] == row["value"])
    return _result(task, rows, lengths, depths, skipped)


def _lengths(model: Model) -> tuple[int, ...]:
    longest = model.context or model.config.seq_len
    return tuple(sorted({longest // 4, longest // 2, longest}))


def haystack(
    model: Model, filler: str, length: int, depth: float, form: str, rng: random.Random
) -> tuple[tuple[int, ...], str, list[tuple[int, ...]]]:
    """(ids of a text that ends where the needle's value is asked for, the value, tokens of each).

    The question is encoded with every value, and ends where the encodings differ first, so that a
    tokenizer that joins a value with the space before it is asked for the token that it has seen.

    Raises:
      UserError: for a length without room for the needle and the question.
    """
    key = "".join(rng.choice(LETTERS) for _ in range(4))
    value = rng.choice(VALUES)
    hidden = model.encode(form.format(key=key, value=value))
    before = form.format(key=key, value="\0").split("\0")[0]
    wholes = [model.encode(before + digit) for digit in VALUES]
    asked = wholes[0][: min(_common(wholes[0], other) for other in wholes[1:])]
    endings = [tuple(whole[len(asked) :]) for whole in wholes]
    room = length - len(hidden) - len(asked) - max(map(len, endings))
    if room < 0:
        raise UserError(
            f"a text of {length} tokens has no room for a needle of {len(hidden) + len(asked)}; "
            "give longer ones"
        )
    ids = model.encode(filler)
    start = rng.randrange(max(len(ids) - room, 1))
    hay = (ids[start:] + ids * (room // len(ids) + 1))[:room]
    place = round(depth * room)
    text = (prefix_of(model), *hay[:place], *hidden, *hay[place:], *asked)
    return text, value, endings


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """Tokens that two texts have alike at their beginning."""
    differ = (i for i, (a, b) in enumerate(zip(first, second, strict=False)) if a != b)
    return next(differ, min(len(first), len(second)))


def _result(
    task: str,
    rows: list[dict],
    lengths: Sequence[int],
    depths: Sequence[float],
    skipped: int,
) -> Result:
    kept = [length for length in lengths if any(row["length"] == length for row in rows)]
    rate = [
        [
            float(np.mean([r["right"] for r in rows if (r["length"], r["depth"]) == (n, d)]))
            for n in kept
        ]
        for d in depths
    ]
    by = {f"{n} tokens": mean([row["right"] for row in rows if row["length"] == n]) for n in kept}
    notes = (f"{skipped} lengths are beyond the context and were left out",) if skipped else ()
    return Result(
        task,
        "retrieved",
        {"retrieved": mean([row["right"] for row in rows])},
        by,
        rows,
        {"chance": 1 / len(VALUES)},
        skipped,
        notes,
        curve={"kind": "needle", "lengths": kept, "depths": list(depths), "rate": rate},
    )
