"""Held-out evaluation: mean loss, standard error, bits per byte."""

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax import Array

from gptjax.data import Corpus
from gptjax.train.config import RunSpec
from gptjax.train.feed import ScoredFeed, held_out_windows
from gptjax.train.objectives import token_losses

ERROR_BLOCKS = 64
__all__ = ["Evaluation", "held_out_windows", "summarise", "window_losses"]


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """Score on the whole held-out part.

    Attributes:
      loss: mean negative log-likelihood, nats per scored token.
      stderr: its standard error over contiguous blocks of the held-out text.
      bits_per_byte: the same code length per byte of text; not a number where another objective
        than the next token's is scored.
      excess: mean of (model − exact) nats per token where the corpus knows its exact
        log-probabilities, else None. Free of the sampling noise of the held-out text.
      metrics: further means of the objective, by name.
      by_source: of a mixture, the loss on each source's held-out part, nats per scored token.
    """

    loss: float
    stderr: float
    bits_per_byte: float
    excess: float | None = None
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    by_source: Mapping[str, float] = dataclasses.field(default_factory=dict)


def window_losses(
    spec: RunSpec, feed: ScoredFeed, params: Any, windows: Any
) -> tuple[Array, Array]:
    """(sum of nats, scored tokens) of each row of `feed.held_out`; pure, to be compiled."""

    def one_batch(rows: Any) -> tuple[Array, Array]:
        batch = feed.held_out_batch(spec, rows)
        losses = token_losses(spec, params, batch)
        return losses.sum(axis=1), batch.weights_BT.sum(axis=1)

    return jax.lax.map(one_batch, windows)


def summarise(spec: RunSpec, corpus: Corpus, sums: np.ndarray, counts: np.ndarray) -> Evaluation:
    """The score from the sums and counts of all windows."""
    sums, counts = (np.asarray(x, np.float64).reshape(-1) for x in (sums, counts))
    if corpus.parts:
        return _of_mixture(spec, corpus, sums, counts)
    used = counts > 0
    sums, counts = sums[used], counts[used]
    loss = float(sums.sum() / counts.sum())
    return Evaluation(
        loss=loss,
        stderr=_block_error(sums, counts),
        bits_per_byte=loss / math.log(2) / corpus.bytes_per_token,
        excess=_excess(spec, corpus, sums, counts),
    )


def _of_mixture(spec: RunSpec, corpus: Corpus, sums: np.ndarray, counts: np.ndarray) -> Evaluation:
    """The score by source, and of all with the parts of `data.targets`, or by their tokens.

    A source of which no window was scored has none, and no part.
    """
    windows = corpus.heldout_windows(spec.model.seq_len)
    ends = np.cumsum(windows)
    losses, errors, tokens = [], [], []
    for first, end in zip(ends - windows, ends, strict=True):
        some, scored = sums[first:end], counts[first:end]
        used = scored > 0
        tokens.append(scored.sum())
        losses.append(some.sum() / tokens[-1] if tokens[-1] else np.nan)
        errors.append(_block_error(some[used], scored[used]) if tokens[-1] else np.nan)
    there = np.array(tokens) > 0
    parts = np.array(
        [
            count if part.target is None else part.target
            for count, part in zip(tokens, corpus.parts, strict=True)
        ]
    )
    parts = np.where(there, parts, 0.0) / np.sum(parts[there])
    bytes_K = np.array([part.bytes_per_token for part in corpus.parts])
    known = np.where(there, losses, 0.0)
    loss = float(parts @ known)
    nats_a_byte = loss / corpus.bytes_per_token
    if corpus.parts[0].target is not None:
        nats_a_byte = float(parts @ (known / bytes_K))
    return Evaluation(
        loss=loss,
        stderr=float(np.sqrt(np.sum((parts * np.array(errors))[parts > 0] ** 2))),
        bits_per_byte=nats_a_byte / math.log(2),
        by_source={
            part.label: float(loss)
            for part, loss in zip(corpus.parts, losses, strict=True)
            if np.isfinite(loss)
        },
    )


def source_columns(corpus: Corpus, spec: RunSpec, score: Evaluation) -> dict[str, float]:
    """What a run on a mixture has by source, as columns of a table; nothing for one source.

    `loss_LABEL` in nats, `weight_LABEL` over the whole run, and how often it was read.
    """
    if not corpus.parts or not spec.source_weights:
        return {}
    reads, sizes = spec.reads, corpus.train_windows(spec.model.seq_len)
    columns = {f"loss_{label}": loss for label, loss in score.by_source.items()}
    for part, read, size in zip(corpus.parts, reads, sizes, strict=True):
        columns[f"weight_{part.label}"] = float(read / reads.sum())
        columns[f"repeats_{part.label}"] = float(read / size)
    return columns


def _block_error(sums: np.ndarray, counts: np.ndarray) -> float:
    """Standard error of the ratio Σ sums / Σ counts over contiguous blocks of windows.

    Blocks, because windows of one document are alike: single windows would understate it.
    """
    blocks = min(ERROR_BLOCKS, len(sums))
    if blocks < 2:
        return float("nan")
    edges = np.linspace(0, len(sums), blocks + 1).astype(int)[:-1]
    block_sums, block_counts = np.add.reduceat(sums, edges), np.add.reduceat(counts, edges)
    residuals = block_sums - block_counts * (sums.sum() / counts.sum())
    return float(np.sqrt(blocks / (blocks - 1) * np.sum(residuals**2)) / counts.sum())


def _excess(spec: RunSpec, corpus: Corpus, sums: np.ndarray, counts: np.ndarray) -> float | None:
    exact = corpus.heldout_logprob_nats
    if exact is None:
        return None
    width = spec.model.seq_len
    targets = np.asarray(corpus.heldout[1 : len(sums) * width + 1])
    scored = np.asarray(exact[1 : len(sums) * width + 1], np.float64)
    if spec.mask_end_of_document:
        scored = np.where(targets == corpus.end_of_document, 0.0, scored)
    return float((sums.sum() - scored.sum()) / counts.sum())
