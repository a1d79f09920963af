"""Spans of three sentences that occur more than once (Raffel et al. 2020: C4 keeps one of them)."""

import dataclasses
import hashlib
import re

import numpy as np

from gptjax.data.clean.documents import SENTENCE_END
from gptjax.fields import setting

SPACE = re.compile(r"\s+")


@dataclasses.dataclass(frozen=True)
class SpansConfig:
    """The length of a span, and what must be left of a document that loses some."""

    sentences: int = setting(3, "sentences of a span", minimum=1)
    words: int = setting(50, "fewest words that must be left of a document", minimum=0)


def places_of(text: str) -> list[tuple[int, int]]:
    """Where each sentence begins and ends, the white space after it included."""
    ends = [match.end() for match in SENTENCE_END.finditer(text)]
    if not ends or ends[-1] < len(text):
        ends.append(len(text))
    return list(zip([0, *ends[:-1]], ends, strict=True))


def hashes_of(text: str, sentences: int) -> np.ndarray:
    """One uint64 for each run of so many sentences, without case and white space."""
    parts = [SPACE.sub(" ", text[a:b]).strip().lower() for a, b in places_of(text)]
    runs = ("\n".join(parts[i : i + sentences]) for i in range(len(parts) - sentences + 1))
    digests = (hashlib.blake2b(run.encode("utf-8", "replace"), digest_size=8) for run in runs)
    return np.array([int.from_bytes(d.digest(), "little") for d in digests], np.uint64)


def without(text: str, spans: np.ndarray, sentences: int) -> str:
    """The text without the sentences of the spans that begin at these numbers."""
    places = places_of(text)
    gone = {i for first in spans.tolist() for i in range(first, first + sentences)}
    return "".join(text[a:b] for i, (a, b) in enumerate(places) if i not in gone).strip()
