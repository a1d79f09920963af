"""Documents and verdicts: what a stage of cleaning is given, and what it says."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

SENTENCE_END = re.compile(r"(?<=[.!?…。！？])[\"'”’)\]]*\s+")


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and where it comes from.

    Attributes:
      id: names the source file and the place in it, or the id that it had there.
      source: the collection, for counts by source.
      url: '' where it has none.
      fields: what else its record holds; written out again as it was.
    """

    text: str
    id: str = ""
    source: str = ""
    url: str = ""
    fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a stage says of a document.

    Attributes:
      reason: why it is dropped, in one or two words; '' = it is kept.
      text: another text for it, where the stage changes texts.
      counts: what was found, by kind.
    """

    reason: str = ""
    text: str | None = None
    counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return not self.reason


Judge = Callable[[Document], Verdict]
"""A stage with its settings: a pure function of a document."""

KEPT = Verdict()


def words_of(text: str) -> list[str]:
    """Words between white space, as in Gopher and Dolma."""
    return text.split()


def sentences_of(text: str) -> list[str]:
    """Sentences: they end in terminal punctuation that white space follows.

    >>> sentences_of('It rained. "Did it?" It did!')
    ['It rained.', '"Did it?"', 'It did!']
    """
    found, start = [], 0
    for match in SENTENCE_END.finditer(text):
        end = match.start() + len(match.group().rstrip())
        found.append(text[start:end])
        start = match.end()
    found.append(text[start:])
    return [sentence for sentence in found if sentence.strip()]
