"""MinHash signatures of texts, and their bands (Broder 1997; Leskovec et al., chapter 3).

Two texts whose sets of word n-grams have the Jaccard similarity s agree in each number of their
signatures with probability s, and in a whole band of r numbers at least once in b bands with
probability 1 − (1 − s^r)^b.
"""

import dataclasses
import functools
import hashlib
import re

import numpy as np

from gptjax.fields import setting

WORD = re.compile(r"\w+")
MIXED = (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53))
ROLL = np.uint64(0x9E3779B97F4A7C15)
CHUNK = 2048
"""n-grams that are hashed at once."""


@dataclasses.dataclass(frozen=True)
class NearConfig:
    """Near-duplicates: n-grams, bands, and how alike two documents must be."""

    ngram: int = setting(5, "words of an n-gram", minimum=1)
    bands: int = setting(14, "bands of a signature", minimum=1, maximum=256)
    rows: int = setting(8, "numbers of a band", minimum=1, maximum=64)
    threshold: float = setting(
        0.7, "least share of numbers that two signatures share", minimum=0, maximum=1
    )


class Signer:
    """Makes signatures; the same text gives the same on every machine."""

    def __init__(self, config: NearConfig):
        self._ngram, self.count = config.ngram, config.bands * config.rows
        rng = np.random.default_rng(20_190)
        self._factors = rng.integers(0, 2**63, self.count, dtype=np.uint64) * np.uint64(2)
        self._factors += np.uint64(1)
        self._terms = rng.integers(0, 2**64, self.count, dtype=np.uint64)

    def sign(self, text: str) -> np.ndarray:
        """The uint32 numbers of a text; those of a text without a word are the largest."""
        grams = self._hashes(text)
        least = np.full(self.count, np.iinfo(np.uint64).max, np.uint64)
        for first in range(0, len(grams), CHUNK):
            each = grams[first : first + CHUNK, None] * self._factors
            each += self._terms
            least = np.minimum(least, each.min(0))
        return (least >> np.uint64(32)).astype(np.uint32)

    def grams(self, text: str) -> np.ndarray:
        """Hashes of the distinct n-grams, uint64; of all words where they are fewer."""
        return np.unique(self._hashes(text))

    def _hashes(self, text: str) -> np.ndarray:
        """Those of all n-grams: a least number is the same with copies, which cost less here."""
        words = np.array([_word_hash(w) for w in WORD.findall(text.lower())], np.uint64)
        if not len(words):
            return words
        n = min(self._ngram, len(words))
        rolled = np.zeros(len(words) - n + 1, np.uint64)
        for i in range(n):
            rolled = rolled * ROLL + words[i : i + len(rolled)]
        return mix(rolled)


@functools.lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def mix(values: np.ndarray) -> np.ndarray:
    """The finaliser of MurmurHash3 on uint64: every bit of the input moves every bit of the output.

    A bijection, so that what differed differs.
    """
    for factor in MIXED:
        values = (values ^ (values >> np.uint64(33))) * factor
    return values ^ (values >> np.uint64(33))


def band_hashes(signatures: np.ndarray, band: int, rows: int) -> np.ndarray:
    """One uint64 for each document, the same where the whole band is."""
    part = signatures[:, band * rows : (band + 1) * rows].astype(np.uint64)
    hashes = np.full(len(part), np.uint64(band + 1))
    for column in part.T:
        hashes = mix(hashes * ROLL + column)
    return hashes


def similarity(one: np.ndarray, others: np.ndarray) -> np.ndarray:
    """The estimated Jaccard similarity of a signature with each of others."""
    return (others == one).mean(-1)
