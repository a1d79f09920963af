"""Normalization of English text: contractions split, control and unassigned characters dropped."""

import re
import unicodedata

KEPT = frozenset("LNPSZ")
"""First letters of the Unicode categories of letters, numbers, punctuation, symbols, separators."""

_NOT = re.compile(r"(?<=\w)(n['\u2019]t)\b", re.IGNORECASE)
_OTHERS = re.compile(r"(?<=\w)(['\u2019](?:s|m|d|ll|re|ve))\b", re.IGNORECASE)


def normalize(text: str) -> str:
    """English contractions apart as the Penn Treebank writes them, and only characters of `KEPT`.

    Tabs and line ends, which Unicode counts as control characters, separate and stay. Combining
    marks go, so that a decomposed accent is lost and a composed one is not.

    >>> normalize("We'll see\\x00: it isn't Anna's\\u200b e\\u0301cole")
    "We 'll see: it is n't Anna 's ecole"
    """
    kept = "".join(c for c in text if c in "\t\n\v\f\r" or unicodedata.category(c)[0] in KEPT)
    return _OTHERS.sub(r" \1", _NOT.sub(r" \1", kept))
