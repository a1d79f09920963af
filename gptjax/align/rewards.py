"""Rewards: functions that judge an answer, and their registry.

Another package adds its own: `rewards.REWARDS["mine"] = lambda asked: …`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError

NUMBER = re.compile(r"(?<!\d)(?<!\d\.)-?(?:\d+(?:\.\d+)?|(?<!\.)\.\d+)")
GROUPED = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
"""A comma that groups digits, which is no part of a number for `float`."""


@dataclasses.dataclass(frozen=True)
class Asked:
    """One answer to judge.

    Attributes:
      said: the line of the prompt, with whatever fields the reward reads.
      text: the answer, without what ended it.
      ended: whether it ended by itself.
      place: file and line of the prompt, for errors.
    """

    said: Mapping[str, Any]
    text: str
    ended: bool
    place: str


def _answer_of(asked: Asked) -> str:
    value = asked.said.get("answer")
    if not isinstance(value, str | int | float):
        raise UserError(
            f"{asked.place} has no answer, with which align.reward compares; add the field answer, "
            "or choose another reward"
        )
    return str(value)


def exact(asked: Asked) -> float:
    """1 where the answer ended and is the line's `answer`, white space at its ends aside."""
    return float(asked.ended and asked.text.strip() == _answer_of(asked).strip())


def letters(asked: Asked) -> float:
    """The share of places in which the answer has the letter of the line's `answer`.

    Places that one of the two has not count as wrong.
    """
    wanted, found = _answer_of(asked), asked.text
    right = sum(a == b for a, b in zip(wanted, found, strict=False))
    return right / max(len(wanted), len(found), 1)


def number(asked: Asked) -> float:
    """1 where the last number in the answer is the line's `answer`.

    Commas between groups of three digits belong to a number; a minus after a digit does not, nor
    the dots of an ellipsis.

    >>> said = {"answer": "1,234"}
    >>> [number(Asked(said, text, True, "")) for text in ("5 or 1234.0", "0-1,234", "1,234,5")]
    [1.0, 1.0, 0.0]
    >>> [number(Asked({"answer": "0.5"}, text, True, "")) for text in ("is .5", "...0.5", "1.0.5")]
    [1.0, 1.0, 0.0]
    """
    found = NUMBER.findall(GROUPED.sub("", asked.text))
    try:
        wanted = float(GROUPED.sub("", _answer_of(asked)))
        return float(bool(found) and float(found[-1]) == wanted)
    except ValueError as error:
        raise UserError(f"{asked.place} has an answer that is no number; correct it") from error


def ended(asked: Asked) -> float:
    """1 where the answer ended by itself."""
    return float(asked.ended)


REWARDS: dict[str, Callable[[Asked], float]] = {
    "answer": exact,
    "letters": letters,
    "number": number,
    "ended": ended,
}
"""The choices of `align.reward` that are programs."""


def judged(reward: Callable[[Asked], float], asked: Sequence[Asked]) -> np.ndarray:
    """The reward of each answer, float32.

    Raises:
      UserError: for one that is no finite number.
    """
    found = np.array([float(reward(one)) for one in asked], np.float32)
    check_finite(found, asked)
    return found


def check_finite(rewards: np.ndarray, asked: Sequence[Asked]) -> None:
    """Refuse rewards that are no finite numbers, naming the first."""
    bad = np.flatnonzero(~np.isfinite(rewards))
    if bad.size:
        one = asked[int(bad[0])]
        raise UserError(
            f"the reward of the answer {one.text[:40]!r} to {one.place} is {rewards[bad[0]]}, and "
            "rewards must be finite; mend align.reward"
        )
