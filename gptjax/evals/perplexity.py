"""Perplexity by domain: nats per token and bits per byte, with standard errors by document."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.evals.result import Result
from gptjax.evals.score import TOKENS, score
from gptjax.evals.statistics import Mean, ratio
from gptjax.evals.text import prefix_of, windows
from gptjax.infer.model import Model


@dataclasses.dataclass(frozen=True)
class Document:
    """A text and the domain that it belongs to."""

    text: str
    domain: str = "text"
    name: str = ""


def perplexity(
    model: Model,
    documents: Sequence[Document],
    *,
    stride: int = 0,
    tokens: int = TOKENS,
    task: str = "perplexity",
) -> Result:
    """Loss of each document, of each domain and of all, each token counted once.

    With it come the information that the past gives about the next token, H(X_t) − H(X_t|X_<t) in
    nats, and the code length of all texts, Σ −log2 p.

    Args:
      stride: tokens that each window after the first scores; 0: the model's context, so that
        windows hardly overlap.
      tokens: of a batch.

    Raises:
      UserError: without documents, or for a model without a context or a tokenizer.
    """
    texts = [document for document in documents if document.text]
    if not texts:
        raise UserError(f"{task} has no text; give documents with at least one character")
    length = model.context or model.config.seq_len
    prefix, requests, owner = prefix_of(model), [], []
    for number, document in enumerate(texts):
        for request in windows(model.encode(document.text), prefix, length, stride):
            requests.append(request)
            owner.append(number)
    nats, counts = np.zeros(len(texts)), np.zeros(len(texts))
    for number, one in zip(owner, score(model, requests, tokens=tokens), strict=True):
        nats[number] -= one.total
        counts[number] += len(one.logprobs)
    seen = np.bincount([token for request in requests for token in request.tokens])
    found = _result(task, texts, nats, counts, unigram_entropy(seen))
    empty = len(documents) - len(texts)
    notes = (f"{empty} of {len(documents)} texts are empty and were left out",) if empty else ()
    return dataclasses.replace(found, skipped=empty, notes=notes)


def unigram_entropy(counts_V: np.ndarray) -> float:
    """H(X) in nats from counts of tokens, with Miller and Madow's correction (seen − 1) / 2n.

    >>> round(unigram_entropy(np.array([500, 500])) - math.log(2), 6)
    0.0005
    """
    kept = counts_V[counts_V > 0].astype(np.float64)
    p = kept / kept.sum()
    return float(-np.sum(p * np.log(p)) + (len(kept) - 1) / (2 * kept.sum()))


def _result(
    task: str, texts: Sequence[Document], nats: np.ndarray, counts: np.ndarray, entropy: float
) -> Result:
    size = np.array([len(document.text.encode()) for document in texts])
    items: list[dict[str, Any]] = [
        {
            "document": document.name or str(i),
            "domain": document.domain,
            "nats": float(nats[i]),
            "tokens": int(counts[i]),
            "bytes": int(size[i]),
        }
        for i, document in enumerate(texts)
    ]
    domains = np.array([document.domain for document in texts])
    loss = _mean(nats, counts)
    by = {
        domain: _mean(nats[domains == domain], counts[domains == domain])
        for domain in dict.fromkeys(domains.tolist())
    }
    metrics = {
        "nats_per_token": loss,
        "bits_per_byte": _mean(nats / math.log(2), size),
        "perplexity": Mean(
            math.exp(min(loss.value, 700.0)),
            math.exp(min(loss.value, 700.0)) * loss.stderr,
            math.exp(min(loss.value, 700.0)) * loss.stderr_by_document,
            loss.count,
        ),
        "mutual_information": Mean(
            entropy - loss.value, loss.stderr, loss.stderr_by_document, loss.count
        ),
        "code_length_bits": Mean(float(nats.sum() / math.log(2)), math.nan, math.nan, loss.count),
    }
    bits = {
        f"{domain}/bits_per_byte": _mean(
            nats[domains == domain] / math.log(2), size[domains == domain]
        )
        for domain in by
    }
    curve = {"kind": "domains", "bits_per_byte": {k: v.value for k, v in bits.items()}}
    return Result(task, "nats_per_token", metrics | bits, by, items, higher=False, curve=curve)


def _mean(sums: np.ndarray, counts: np.ndarray) -> Mean:
    value, error = ratio(sums, counts, range(len(sums)))
    return Mean(value, error, error, len(sums))
