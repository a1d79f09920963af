"""Retrieval for generation (RAG): an index of passages on disk, and how it is searched.

Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks" (2020), section
2.1. BM25's terms are words, or the tokens of a model's tokenizer, for languages without spaces;
dense vectors are a model's own states. An index belongs to the tokenizer of the model that reads
its passages, its vectors to one model.
"""

import dataclasses
import functools
import hashlib
import io
import json
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.files import write_atomic

FILE = "index.npz"
LISTS = ("documents", "names", "vocabulary")
FACTS = (*LISTS, "by_words", "tokenizer", "k1", "b", "states_of", "stamp")
PROBE = "The 3 quick-brown foxes naïvely jump; 東京 0123456789\n"
"""A text whose ids tell tokenizers apart."""


@dataclasses.dataclass(frozen=True)
class Index:
    """Documents and where their terms are, in compressed sparse columns.

    Attributes:
      documents: the texts.
      names: of each document, for who reads an answer; their numbers where none are given.
      starts_V: of each term the first of its postings, and at the end how many there are.
      where_P, counts_P: of each posting the document, and how often it has the term.
      lengths_N: terms of each document.
      tokenizer: `fingerprint` of what made the terms.
      k1, b: of BM25.
      states_ND: the dense vector of each document, of length one; [0, 0] without.
      mean_D: what was taken from each before that.
      states_of: `states_fingerprint` of the model that made them; "" without.
      stamp: says of which files it was built.
      by_words: whether terms are words and no tokens.
      vocabulary: these words, in the order of their numbers.
    """

    documents: tuple[str, ...]
    starts_V: np.ndarray
    where_P: np.ndarray
    counts_P: np.ndarray
    lengths_N: np.ndarray
    tokenizer: str
    k1: float = 1.5
    b: float = 0.75
    names: tuple[str, ...] = ()
    states_ND: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros((0, 0), np.float32))
    mean_D: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0, np.float32))
    states_of: str = ""
    stamp: str = ""
    by_words: bool = False
    vocabulary: tuple[str, ...] = ()

    def query(self, text: str, tokenizer: Tokenizer) -> list[int]:
        """The terms of a question; words that no document has are left out."""
        if not self.by_words:
            (ids,) = tokenizer.encode([text.encode()])
            return np.asarray(ids).tolist()  # type: ignore[no-any-return]
        return [self._numbers[word] for word in words_of(text) if word in self._numbers]

    @functools.cached_property
    def _numbers(self) -> dict[str, int]:
        return {word: number for number, word in enumerate(self.vocabulary)}

    def name(self, document: int) -> str:
        """What the document is called."""
        return self.names[document] if self.names else str(document)

    def scores(self, query: Sequence[int]) -> np.ndarray:
        """BM25 of every document, float64 [N]: Σ over the query's terms of

        ln(1 + (N − n + ½)/(n + ½)) · f(k1 + 1) / (f + k1(1 − b + b·length/mean length)),

        f the term's count in the document and n the documents that have it (Robertson et al. 1994,
        with Lucene's logarithm, which is never negative). `rank_bm25` leaves out the 1 in the
        logarithm and raises what is negative; bm25s' "lucene" leaves out the factor k1 + 1, which
        changes no order.
        """
        N = len(self.documents)
        longer_N = 1 - self.b + self.b * self.lengths_N / max(self.lengths_N.mean(), 1e-9)
        found = np.zeros(N)
        for term, times in Counter(query).items():
            if term + 1 >= len(self.starts_V):
                continue  # no token of the index
            here = slice(*self.starts_V[term : term + 2])
            which, f = self.where_P[here], self.counts_P[here]
            rarity = np.log1p((N - len(which) + 0.5) / (len(which) + 0.5))
            found[which] += times * rarity * f * (self.k1 + 1) / (f + self.k1 * longer_N[which])
        return found


def best(scores_N: np.ndarray, count: int) -> list[tuple[int, float]]:
    """(number, score) of the highest scores, of equal ones the earlier first.

    >>> best(np.array([1.0, 3.0, 3.0]), 2)
    [(1, 3.0), (2, 3.0)]
    """
    order = np.argsort(-scores_N, kind="stable")[:count]
    return [(int(one), float(scores_N[one])) for one in order]


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash by which tokenizers are told apart, of a text's ids and the vocabulary's size."""
    (ids,) = tokenizer.encode([PROBE.encode()])
    facts = [np.asarray(ids).tolist(), tokenizer.vocab_size, tokenizer.end_of_document]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def build(
    documents: Sequence[str],
    tokenizer: Tokenizer,
    k1: float = 1.5,
    b: float = 0.75,
    *,
    names: Sequence[str] = (),
    stamp: str = "",
    by_words: bool = False,
) -> Index:
    """The index of some texts.

    Args:
      by_words: terms are words and not the tokenizer's tokens.

    Raises:
      UserError: where there is no document.
    """
    if not documents:
        raise UserError("an index needs documents, and there is none; give at least one text")
    vocabulary: list[str] = []
    if by_words:
        vocabulary, ids = _numbered(documents)
    else:
        ids = [np.asarray(one) for one in tokenizer.encode([text.encode() for text in documents])]
    counted = [np.unique(one, return_counts=True) for one in ids]
    terms_P = np.concatenate([terms for terms, _ in counted]).astype(np.int64)
    where_P = np.repeat(np.arange(len(ids)), [len(terms) for terms, _ in counted])
    order = np.argsort(terms_P, kind="stable")
    count = len(vocabulary) if by_words else tokenizer.vocab_size
    starts = np.searchsorted(terms_P[order], np.arange(count + 1))
    counts_P = np.concatenate([counts for _, counts in counted])
    lengths = np.array([len(one) for one in ids])
    made_by = fingerprint(tokenizer)
    arrays = starts, where_P[order], counts_P[order], lengths
    return Index(
        tuple(documents),
        *arrays,
        made_by,
        k1,
        b,
        tuple(names),
        stamp=stamp,
        by_words=by_words,
        vocabulary=tuple(vocabulary),
    )


def _numbered(documents: Sequence[str]) -> tuple[list[str], list[np.ndarray]]:
    """(all words in their order, the numbers of each document's words)."""
    seen: dict[str, int] = {}
    ids = [
        np.array([seen.setdefault(word, len(seen)) for word in words_of(text)], np.int64)
        for text in documents
    ]
    vocabulary = sorted(seen)
    number = np.empty(len(seen), np.int64)
    number[[seen[word] for word in vocabulary]] = np.arange(len(seen))
    return vocabulary, [number[one] for one in ids]


def words_of(text: str) -> list[str]:
    """The words of a text in small letters.

    >>> words_of("The fox's 2 dens")
    ['the', 'fox', 's', '2', 'dens']
    """
    return re.findall(r"\w+", text.lower())


def save(index: Index, folder: Path) -> None:
    """Write the index into a folder; its file is whole or absent."""
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    facts = {name: arrays.pop(name) for name in FACTS}
    content = io.BytesIO()
    np.savez_compressed(
        content, facts=np.frombuffer(json.dumps(facts).encode(), np.uint8), **arrays
    )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(folder / FILE, content.getvalue())


def load(folder: Path, tokenizer: Tokenizer) -> Index:
    """The index of a folder, for questions in the tokens of `tokenizer`.

    Raises:
      UserError: where there is none, or another tokenizer made it.
    """
    try:
        with np.load(folder / FILE, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        facts = json.loads(arrays.pop("facts").tobytes())
        facts |= {name: tuple(facts[name]) for name in LISTS}
        found = Index(**arrays, **facts)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} holds no index that can be read; build it again") from error
    if found.tokenizer != fingerprint(tokenizer):
        raise UserError(
            f"{folder} is an index of another tokenizer's tokens; build it with the tokenizer of "
            "the model that asks"
        )
    return found


def passages(text: str, words: int) -> list[str]:
    """The text in passages of so many words, as it is written; 0: whole.

    >>> passages("one two  three four five", 2)
    ['one two', 'three four', 'five']
    """
    if not words:
        return [text.strip()]
    spans = [found.span() for found in re.finditer(r"\S+", text)]
    groups = [spans[i : i + words] for i in range(0, len(spans), words)]
    return [text[group[0][0] : group[-1][1]] for group in groups]


def halved(text: str, fits: Callable[[str], bool]) -> list[str]:
    """The text in pieces that fit, cut in halves at a space where there is one.

    >>> halved("one two three four", lambda text: len(text) < 12)
    ['one two', 'three four']
    """
    if len(text) < 2 or fits(text):
        return [text]
    spaces = [found.start() for found in re.finditer(r"\s", text)]
    middle = len(text) // 2
    cut = min(spaces, key=lambda place: abs(place - middle), default=middle)
    parts = text[:cut].strip(), text[cut:].strip()
    if not all(parts):
        parts = text[:middle], text[middle:]
    return [piece for part in parts for piece in halved(part, fits)]
