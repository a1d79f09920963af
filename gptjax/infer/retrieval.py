"""Retrieval for generation (RAG): a BM25 index on disk, and answers' probability over documents.

Lewis et al., "Retrieval-Augmented Generation for Knowledge-Intensive NLP Tasks" (2020), section
2.1. Terms are the tokens of a model's tokenizer, so that any language and any vocabulary is served;
an index therefore belongs to one tokenizer.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.data.tokenizers import Tokenizer
from gptjax.errors import UserError
from gptjax.files import write_atomic

FILE = "index.npz"
PROBE = "The 3 quick-brown foxes naïvely jump; 東京 0123456789\n"
"""A text whose ids tell tokenizers apart."""


@dataclasses.dataclass(frozen=True)
class Index:
    """Documents and where their terms are, in compressed sparse columns.

    Attributes:
      documents: the texts.
      starts_V: of each term the first of its postings, and at the end how many there are.
      where_P, counts_P: of each posting the document, and how often it has the term.
      lengths_N: terms of each document.
      tokenizer: `fingerprint` of what made the terms.
      k1, b: of BM25.
    """

    documents: tuple[str, ...]
    starts_V: np.ndarray
    where_P: np.ndarray
    counts_P: np.ndarray
    lengths_N: np.ndarray
    tokenizer: str
    k1: float = 1.5
    b: float = 0.75

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

    def search(self, query: Sequence[int], count: int) -> list[tuple[int, float]]:
        """(number of the document, score), the best first, of equal ones the earlier first."""
        scores = self.scores(query)
        best = np.argsort(-scores, kind="stable")[:count]
        return [(int(one), float(scores[one])) for one in best]


def fingerprint(tokenizer: Tokenizer) -> str:
    """A hash by which tokenizers are told apart, of a text's ids and the vocabulary's size."""
    (ids,) = tokenizer.encode([PROBE.encode()])
    facts = [np.asarray(ids).tolist(), tokenizer.vocab_size, tokenizer.end_of_document]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:32]


def build(
    documents: Sequence[str], tokenizer: Tokenizer, k1: float = 1.5, b: float = 0.75
) -> Index:
    """The index of some texts.

    Raises:
      UserError: where there is no document.
    """
    if not documents:
        raise UserError("an index needs documents, and there is none; give at least one text")
    ids = [np.asarray(one) for one in tokenizer.encode([text.encode() for text in documents])]
    counted = [np.unique(one, return_counts=True) for one in ids]
    terms_P = np.concatenate([terms for terms, _ in counted]).astype(np.int64)
    where_P = np.repeat(np.arange(len(ids)), [len(terms) for terms, _ in counted])
    order = np.argsort(terms_P, kind="stable")
    starts = np.searchsorted(terms_P[order], np.arange(tokenizer.vocab_size + 1))
    counts_P = np.concatenate([counts for _, counts in counted])
    lengths = np.array([len(one) for one in ids])
    made_by = fingerprint(tokenizer)
    return Index(tuple(documents), starts, where_P[order], counts_P[order], lengths, made_by, k1, b)


def save(index: Index, folder: Path) -> None:
    """Write the index into a folder; its file is whole or absent."""
    arrays = {field.name: getattr(index, field.name) for field in dataclasses.fields(index)}
    facts = {name: arrays.pop(name) for name in ("documents", "tokenizer", "k1", "b")}
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
        facts["documents"] = tuple(facts["documents"])
        found = Index(**arrays, **facts)
    except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise UserError(f"{folder} holds no index that can be read; build it again") from error
    if found.tokenizer != fingerprint(tokenizer):
        raise UserError(
            f"{folder} is an index of another tokenizer's tokens; build it with the tokenizer of "
            "the model that asks"
        )
    return found


def prior(scores_Z: jax.Array) -> jax.Array:
    """log P(z|x) of the retrieved documents: softmax of their scores (the paper's equation 1)."""
    return jax.nn.log_softmax(jnp.asarray(scores_Z, jnp.float32))


def rag_sequence(prior_Z: jax.Array, logprobs_ZT: jax.Array) -> jax.Array:
    """log Σ_z P(z|x) Π_i P(y_i|x, z, y_<i): one document for the whole answer.

    >>> half, p = jnp.log(jnp.array([0.5, 0.5])), jnp.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(float(jnp.exp(rag_sequence(half, jnp.log(p)))), 4)
    0.5
    """
    return jax.nn.logsumexp(prior_Z + jnp.sum(logprobs_ZT, axis=-1))


def rag_token(prior_Z: jax.Array, logprobs_ZT: jax.Array) -> jax.Array:
    """log Π_i Σ_z P(z|x) P(y_i|x, z, y_<i): another document may stand behind each token.

    P(z|x) is that of the question at every token, as in the paper; it is not updated by the tokens
    before, with which the product would be that of RAG-Sequence.

    >>> half, p = jnp.log(jnp.array([0.5, 0.5])), jnp.array([[1.0, 0.5], [0.5, 1.0]])
    >>> round(float(jnp.exp(rag_token(half, jnp.log(p)))), 4)
    0.5625
    """
    return jnp.sum(jax.nn.logsumexp(prior_Z[:, None] + logprobs_ZT, axis=0))
