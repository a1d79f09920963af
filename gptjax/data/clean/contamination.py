"""Contamination: n-grams of evaluation files in a document (13-grams, as Brown et al. 2020)."""

import dataclasses
import hashlib
import itertools
import re
from collections.abc import Iterable, Iterator

from gptjax.data.clean.documents import KEPT, Document, Judge, Verdict
from gptjax.data.clean.readers import text_files
from gptjax.fields import setting

WORD = re.compile(r"\w+")


@dataclasses.dataclass(frozen=True)
class ContaminationConfig:
    """The evaluation files, and the length of what a document may not share with them."""

    path: str = setting("", "evaluation files: a file, a folder or a glob; '' = none")
    ngram: int = setting(13, "words that must be the same, in a row", minimum=1)


def make(config: ContaminationConfig) -> Judge:
    """The judge of documents that hold an n-gram of the evaluation files.

    Raises:
      UserError: where the files cannot be read.
    """
    if not config.path:
        return lambda document: KEPT
    known = frozenset(
        itertools.chain.from_iterable(
            ngrams(text, config.ngram) for text in text_files(config.path)
        )
    )

    def judge(document: Document) -> Verdict:
        found = any(gram in known for gram in ngrams(document.text, config.ngram))
        return Verdict("evaluation data") if found else KEPT

    return judge


def ngrams(text: str, n: int) -> Iterator[bytes]:
    """Hashes of n words in a row, without case and punctuation; of all words where they are fewer.

    >>> len(set(ngrams("One, two three. four", 3)) & set(ngrams("one two THREE", 3)))
    1
    """
    words = WORD.findall(text.lower())
    last = max(len(words) - n, 0)
    for i in range(last + 1 if words else 0):
        yield _hashed(words[i : i + n])


def _hashed(words: Iterable[str]) -> bytes:
    return hashlib.blake2b(" ".join(words).encode("utf-8", "replace"), digest_size=12).digest()
