"""Small tasks with levels of difficulty, made by rule: the same items on every machine.

Each is a function of (count, seed) to items, so that small models show curves and nothing is
downloaded. `completion` takes the code of the running interpreter's standard library.
"""

import random
from collections.abc import Callable, Sequence

import numpy as np

from gptjax.data.sources.stdlib import stdlib
from gptjax.data.sources.zipf_facts import SYMBOLS, ZipfFactsConfig, language
from gptjax.data.split import digest, is_heldout
from gptjax.errors import UserError
from gptjax.evals.choices import Item

WRONG = 3
"""Wrong choices of an item."""
HELDOUT = 0.025
"""Share of the standard library's files that are held out by default."""


def arithmetic(count: int, seed: int = 0) -> list[Item]:
    """Sums of numbers of one, two and three digits; wrong answers are near, or lack a carry."""
    rng, items = random.Random(f"arithmetic {seed}"), []
    for number in range(count):
        digits = 1 + number % 3
        a, b = (rng.randrange(10 ** (digits - 1), 10**digits) for _ in range(2))
        wrong = rng.sample([d for d in (-10, -2, -1, 1, 2, 10) if a + b + d >= 0], WRONG)
        texts = [str(a + b), *(str(a + b + d) for d in wrong)]
        items.append(_shuffled(rng, f"{a} + {b} =", texts, f"{digits} digits"))
    return items


def copying(count: int, seed: int = 0) -> list[Item]:
    """The next letter of a sequence that is repeated, of 4, 8 and 16 letters."""
    rng, items = random.Random(f"copying {seed}"), []
    letters = "abcdefghijklmnopqrstuvwxyz"
    for number in range(count):
        length = 4 << number % 3
        word = rng.sample(letters, length)
        place = rng.randrange(1, length)
        question = " ".join([*word, *word[:place]])
        wrong = rng.sample([letter for letter in word if letter != word[place]], WRONG)
        items.append(_shuffled(rng, question, [word[place], *wrong], f"{length} letters"))
    return items


NOUNS = ("key", "book", "friend", "picture", "teacher", "car", "letter", "dog", "window", "river")
PLACES = ("near", "behind", "beside", "with")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"))


def agreement(count: int, seed: int = 0) -> list[Item]:
    """The verb that agrees with a subject, with none, one or two nouns of the other number between.

    Linzen et al. 2016, "Assessing the Ability of LSTMs to Learn Syntax-Sensitive Dependencies".
    """
    rng, items = random.Random(f"agreement {seed}"), []
    for number in range(count):
        between, plural = number % 3, rng.random() < 0.5
        nouns = rng.sample(NOUNS, between + 1)
        words = ["The", nouns[0] + "s" * plural]
        for noun in nouns[1:]:
            words += [rng.choice(PLACES), "the", noun + "s" * (not plural)]
        verbs = rng.choice(VERBS)
        texts = [verbs[plural], verbs[not plural]]
        items.append(_shuffled(rng, " ".join(words), texts, f"{between} between"))
    return items


def completion(count: int, seed: int = 0) -> list[Item]:
    """The next line of held-out code, after 1, 4 and 12 lines; wrong ones are of the same file."""
    rng, items = random.Random(f"completion {seed}"), []
    held = [d.decode() for d in stdlib().read() if is_heldout(digest(d), HELDOUT)]
    files = [lines for text in sorted(held) if len(lines := _lines(text)) > 40]
    if not files:
        raise UserError("the standard library has no held-out file of 40 lines for completion")
    for number in range(count):
        lines, before = files[rng.randrange(len(files))], (1, 4, 12)[number % 3]
        place = rng.randrange(before, len(lines))
        others = sorted({*lines} - {lines[place]})
        texts = [f"{line}\n" for line in (lines[place], *rng.sample(others, WRONG))]
        question = "\n".join(lines[place - before : place]) + "\n"
        items.append(_shuffled(rng, question, texts, f"{before} lines"))
    return items


def _lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if 12 <= len(line) <= 80]


def facts_of(config: ZipfFactsConfig) -> Callable[[int, int], list[Item]]:
    """Attributes of entities of `zipf-facts`, from the most popular to the rarest."""

    def facts(count: int, seed: int = 0) -> list[Item]:
        rng, known, items = random.Random(f"facts {seed}"), language(config), []
        words = ["".join(map(_symbol, body.tolist())) for body in known.bodies]
        digits = known.bodies.shape[1] - config.relations
        for rank in _ranks(len(words), count):
            word = words[int(known.entity_of_rank[rank])]
            right = word[digits:]
            others = {words[rng.randrange(len(words))][digits:] for _ in range(8)} - {right}
            texts = [right, *sorted(others)[:WRONG]]
            items.append(_shuffled(rng, word[:digits], texts, f"rank 10^{len(str(rank + 1)) - 1}"))
        return items

    return facts


def _ranks(entities: int, count: int) -> list[int]:
    """`count` popularity ranks from 0 on, none twice, dense at the head and sparse in the tail."""
    points = count = min(count, entities)
    while len(found := np.unique(np.geomspace(1, entities, points).astype(int))) < count:
        points *= 2
    return (found[np.linspace(0, len(found) - 1, count).astype(int)] - 1).tolist()


def _symbol(number: int) -> str:
    """As `zipf_facts.SymbolTokenizer` writes it."""
    return SYMBOLS[number] if number < len(SYMBOLS) else chr(0x10000 + number)


def _shuffled(rng: random.Random, question: str, texts: Sequence[str], level: str) -> Item:
    """An item whose right choice, the first of `texts`, lies at a random place."""
    order = list(range(len(texts)))
    rng.shuffle(order)
    return Item(question, tuple(texts[i] for i in order), order.index(0), level)
