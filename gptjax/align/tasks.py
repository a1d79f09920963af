"""Tasks whose right answers a program knows: letters, of which capitals are wanted.

The base's texts answer a prompt with letters of either case and with as many as it happens. What is
wanted is in the base, though seldom; alignment has to make it the rule. `capitals` wants all of
them; `emphasis` wants a few, so that a reward model which saw too few loud answers is wrong there.
"""

import random
import string

from gptjax.align.rewards import REWARDS, Asked


def prompts(count: int, seed: int) -> list[str]:
    """Four small letters and a mark, `kqaz>`; a function of the seed."""
    draw = random.Random(seed)
    return ["".join(draw.choices(string.ascii_lowercase, k=4)) + ">" for _ in range(count)]


def answer(length: int, right: float, draw: random.Random) -> str:
    """So many letters, each a capital with the probability `right`."""
    return "".join(
        draw.choice(string.ascii_uppercase if draw.random() < right else string.ascii_lowercase)
        for _ in range(length)
    )


def capitals(asked: Asked) -> float:
    """The share of capitals among so many letters as the line's `length` says, or more.

    An answer that is too short or too long has places that are wrong.

    >>> [capitals(Asked({"length": 4}, text, True, "")) for text in ("ABc", "ABCDEFGH")]
    [0.5, 0.5]
    """
    right = sum(letter in string.ascii_uppercase for letter in asked.text)
    wanted = int(asked.said["length"])
    return min(right, wanted) / max(wanted, len(asked.text))


def emphasis(asked: Asked) -> float:
    """1 − ((c − b)/b)² of c capitals: the line's `best` number b of them is best.

    >>> [emphasis(Asked({"best": 2}, text, True, "")) for text in ("abc", "ABc", "ABCD")]
    [0.0, 1.0, 0.0]
    """
    best = int(asked.said["best"])
    found = sum(letter in string.ascii_uppercase for letter in asked.text)
    return 1.0 - ((found - best) / best) ** 2


REWARDS["capitals"] = capitals
REWARDS["emphasis"] = emphasis
