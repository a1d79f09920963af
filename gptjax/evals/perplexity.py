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
    return _result(task, texts, nats, counts)


def _result(task: str, texts: Sequence[Document], nats: np.ndarray, counts: np.ndarray) -> Result:
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
