"""Gopher's rules (Rae et al. 2021, appendix A.1): repetition (table A1) and quality.

Each judge gives the first rule that a document breaks, in the paper's order.
"""

import dataclasses
import itertools
import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from gptjax.data.clean.documents import KEPT, Document, Judge, Verdict, words_of
from gptjax.fields import setting

PARAGRAPHS = re.compile(r"\n{2,}")
LINES = re.compile(r"\n+")
STOP_WORDS = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
SHORTEST = 5
"""Words of the shortest n-gram whose repetitions are added up."""
BULLETS = ("•", "-")
ELLIPSES = ("...", "…")
PUNCTUATION = frozenset(
    string.punctuation
    + "，。、„”“«»」「《》´∶：？！（；）．–—〈％…－～━【】►１｡؟۔।॥"
    + "".join(map(chr, (*range(10), *range(11, 32), *range(127, 160))))
)
"""A word of these alone is a symbol: ASCII's punctuation, the list of CCNet (Wenzek et al. 2020),
further ends of sentences, and control characters."""


@dataclasses.dataclass(frozen=True)
class RepetitionConfig:
    """Table A1 of Gopher: the largest shares of a document that may be repeated."""

    lines: float = setting(0.30, "of lines", minimum=0, maximum=1)
    paragraphs: float = setting(0.30, "of paragraphs", minimum=0, maximum=1)
    line_characters: float = setting(0.20, "of characters, in lines", minimum=0, maximum=1)
    paragraph_characters: float = setting(
        0.20, "of characters, in paragraphs", minimum=0, maximum=1
    )
    top_ngrams: tuple[float, ...] = setting(
        (0.20, 0.18, 0.16),
        "of characters, in the commonest 2-, 3- and 4-gram",
        minimum=0,
        maximum=1,
    )
    repeated_ngrams: tuple[float, ...] = setting(
        (0.15, 0.14, 0.13, 0.12, 0.11, 0.10),
        "of characters, in all repeated 5- to 10-grams",
        minimum=0,
        maximum=1,
    )


@dataclasses.dataclass(frozen=True)
class QualityConfig:
    """Gopher's thresholds of quality."""

    words: int = setting(50, "fewest words, symbols not counted", minimum=0)
    most_words: int = setting(100_000, "most words", minimum=1)
    word_length: float = setting(3.0, "least mean length of a word", minimum=0)
    most_word_length: float = setting(10.0, "largest mean length of a word", above=0)
    symbols: float = setting(0.1, "most hash signs, and most ellipses, for each word", minimum=0)
    bullets: float = setting(0.9, "largest share of lines that begin with a bullet", minimum=0)
    ellipses: float = setting(0.3, "largest share of lines that end in an ellipsis", minimum=0)
    letters: float = setting(0.8, "least share of words with a letter", minimum=0, maximum=1)
    stop_words: int = setting(2, "fewest of the be to of and that have with", minimum=0)


def make_repetition(
    config: RepetitionConfig, words: Callable[[str], list[str]] = words_of
) -> Judge:
    """The judge of repetition; `words` splits a text."""

    def judge(document: Document) -> Verdict:
        text = document.text
        if not text:
            return Verdict("empty")
        size = len(text)
        parts = PARAGRAPHS.split(text.strip())
        count, characters = _repeated(parts)
        if count / len(parts) > config.paragraphs:
            return Verdict("repeated paragraphs")
        if characters / size > config.paragraph_characters:
            return Verdict("characters of repeated paragraphs")
        parts = LINES.split(text)
        count, characters = _repeated(parts)
        if count / len(parts) > config.lines:
            return Verdict("repeated lines")
        if characters / size > config.line_characters:
            return Verdict("characters of repeated lines")
        return _ngrams(words(text), size, config)

    return judge


def _repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts are copies of an earlier one, and their characters."""
    distinct = set(parts)
    if len(distinct) == len(parts):
        return 0, 0
    return len(parts) - len(distinct), sum(map(len, parts)) - sum(map(len, distinct))


def _ngrams(words: list[str], size: int, config: RepetitionConfig) -> Verdict:
    times = longest = 0
    for n, most in enumerate(config.top_ngrams, start=2):
        if times and (n * longest + n - 1) * times < most * size:
            continue  # the commonest comes no more often than a shorter one
        characters, times = _top_characters(words, n)
        longest = longest or max(map(len, words), default=0)
        if characters / size > most:
            return Verdict(f"top {n}-gram")
    joined = "".join(words)
    places = [0, *itertools.accumulate(map(len, words))]
    if not _may_repeat(joined, places):
        return KEPT
    for n, most in enumerate(config.repeated_ngrams, start=SHORTEST):
        if _repeated_characters(joined, places, n) / size > most:
            return Verdict(f"repeated {n}-grams")
    return KEPT


def _top_characters(words: list[str], n: int) -> tuple[int, int]:
    """(characters of the commonest n-gram, all its places together, how many they are).

    Of several the first.
    """
    counts = Counter(zip(*(words[i:] for i in range(n)), strict=False))
    if not counts:
        return 0, 0
    top = max(counts, key=counts.__getitem__)
    return (sum(map(len, top)) + n - 1) * counts[top], counts[top]


def _may_repeat(joined: str, places: list[int]) -> bool:
    """Whether an n-gram of 5 words or more may come twice: else no 5-gram begins another one.

    Two equal n-grams may be parted into words in two ways, and then a shorter one begins a longer.
    """
    grams = sorted(joined[a:b] for a, b in zip(places, places[SHORTEST:], strict=False))
    return any(map(str.startswith, grams[1:], grams))


def _repeated_characters(joined: str, places: list[int], n: int) -> int:
    """Characters of n-grams that came before, those that overlap counted once."""
    grams = [joined[a:b] for a, b in zip(places, places[n:], strict=False)]
    if len(set(grams)) == len(grams):
        return 0
    seen: set[str] = set()
    characters, i = 0, 0
    while i < len(grams):
        gram = grams[i]
        if gram in seen:
            characters += len(gram)
            i += n
        else:
            seen.add(gram)
            i += 1
    return characters


def make_quality(config: QualityConfig, words: Callable[[str], list[str]] = words_of) -> Judge:
    """The judge of quality; `words` splits a text."""

    def judge(document: Document) -> Verdict:
        text, found = document.text, words(document.text)
        plain = [len(w) for w in found if w.isalnum() or not PUNCTUATION.issuperset(w)]
        if len(plain) < config.words or not plain:
            return Verdict("too few words")
        if len(plain) > config.most_words:
            return Verdict("too many words")
        mean = sum(plain) / len(plain)
        if mean < config.word_length:
            return Verdict("short words")
        if mean > config.most_word_length:
            return Verdict("long words")
        if text.count("#") / len(found) > config.symbols:
            return Verdict("hash signs")
        if sum(map(text.count, ELLIPSES)) / len(found) > config.symbols:
            return Verdict("ellipses")
        return _lines_and_words(text.splitlines(), found, config)

    return judge


def _lines_and_words(lines: list[str], words: list[str], config: QualityConfig) -> Verdict:
    if sum(line.lstrip().startswith(BULLETS) for line in lines) / len(lines) > config.bullets:
        return Verdict("bullets")
    if sum(line.rstrip().endswith(ELLIPSES) for line in lines) / len(lines) > config.ellipses:
        return Verdict("lines end in ellipses")
    few = sum(map(str.isalpha, words)) / len(words) < config.letters  # of letters alone
    if few and sum(map(_has_letter, words)) / len(words) < config.letters:
        return Verdict("words without letters")
    if len(STOP_WORDS.intersection(words)) < config.stop_words:
        return Verdict("no stop words")
    return KEPT


def _has_letter(word: str) -> bool:
    return word.isalpha() or any(map(str.isalpha, word))
