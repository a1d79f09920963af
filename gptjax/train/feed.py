"""Feeds: the batches of a run, made from examples by their numbers.

The examples of a step are a pure function of seed and step (`data.order`); a feed says what they
hold and which of their targets are scored. It has no state, so a resume is exact.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import data, ops
from gptjax.data import Corpus
from gptjax.data.mixture_order import (
    make_schedule,
    mixed_windows_jax,
    mixed_windows_numpy,
    window_starts,
)
from gptjax.train.config import RunSpec
from gptjax.train.state import Hyper


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of one step: `targets_BT[b, t]` follows `inputs_BT[b, t]`.

    Attributes:
      weights_BT: 1 where the target is scored; 0 at padding, prompts and whatever else a feed
        leaves out of the loss.
      segment_ids_BT: document numbers, where attention stays within documents.
      positions_BT: where each token is in its text, for packed sequences; None: 0…T−1.
      pictures_BYXC: the picture before each text; None: there are none.
    """

    inputs_BT: Array
    targets_BT: Array
    weights_BT: Array
    segment_ids_BT: Array | None = None
    positions_BT: Array | None = None
    pictures_BYXC: Array | None = None

    def in_order(self) -> "Batch":
        """The same with its tokens sharded by the layout over devices, and in its order."""
        tokens = jax.tree.map(_in_order, dataclasses.replace(self, pictures_BYXC=None))
        return dataclasses.replace(tokens, pictures_BYXC=self.pictures_BYXC)


def _in_order(x_BT: Array) -> Array:
    return nn.with_logical_constraint(ops.in_order(x_BT, axis=1), ("batch", "seq"))


class Feed(Protocol):
    """What a run is trained on. Everything a compiled program calls is traced.

    Attributes:
      arrays: pytree of host arrays that the program reads examples from, on the device.
    """

    @property
    def arrays(self) -> Any: ...

    def examples(self, spec: RunSpec) -> int | tuple[int, ...]:
        """How many there are, of each source of a mixture; each pass of a run over them has
        another order."""

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> Any:
        """Traced: the rows of these examples, gathered from `arrays`."""

    def stream(self, spec: RunSpec, start: int) -> Iterator[Any]:
        """The same rows from the host, for step `start` and those after it."""

    def batch(self, spec: RunSpec, rows: Any) -> Batch:
        """Traced: the batch of these rows."""


def examples_at(hyper: Hyper, position: Any, batch: int, count: int | tuple[int, ...]) -> Array:
    """Traced: the numbers of the examples that a step reads, of all sources together.

    Args:
      count: `Feed.examples`.
    """
    if isinstance(count, int):
        return data.windows_jax(hyper.seed, position, batch, count)
    assert hyper.mixture is not None, "a mixture needs RunSpec.source_weights"
    return mixed_windows_jax(hyper.mixture, hyper.seed, position, batch, count)


class ScoredFeed(Feed, Protocol):
    """A feed whose held-out part is scored by the loss of its tokens."""

    def held_out(self, seq_len: int, batch_size: int) -> Any:
        """Pytree of arrays [batches, rows, …]: all of the held-out part."""

    def held_out_batch(self, spec: RunSpec, rows: Any) -> Batch:
        """Traced: the batch of one of them, in which padding weighs nothing."""


class TokenFeed:
    """Next-token windows of a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @property
    def arrays(self) -> np.ndarray:
        """The training tokens, one after another."""
        return np.asarray(self._corpus.train)

    def examples(self, spec: RunSpec) -> int | tuple[int, ...]:
        """Windows of `seq_len` inputs and targets."""
        windows = self._corpus.train_windows(spec.model.seq_len)
        return windows if self._corpus.parts else windows[0]

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> tuple[Array, Array]:
        """Inputs and targets of the windows."""
        length = spec.model.seq_len
        if not self._corpus.parts:
            return data.gather_jax(arrays, length, examples_B)
        return data.cut_jax(arrays, length, self._starts(length, examples_B, jnp))

    def stream(self, spec: RunSpec, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets, read ahead by threads."""
        from gptjax.data.host_loader import host_loader, read_ahead

        corpus, length, batch = self._corpus, spec.model.seq_len, spec.batch_size
        if not corpus.parts:
            return host_loader(corpus.train, length, spec.seed, start, batch)
        schedule = make_schedule(spec.source_weights, spec.weight_phases, spec.steps, batch)
        sizes = corpus.train_windows(length)

        def rows(step: int) -> tuple[np.ndarray, np.ndarray]:
            windows = mixed_windows_numpy(schedule, spec.seed, step, batch, sizes)
            return data.cut_numpy(corpus.train, length, self._starts(length, windows, np))

        return read_ahead(rows, start)

    def _starts(self, seq_len: int, windows: Any, xp: Any) -> Any:
        """Where windows of the sources begin in the training tokens."""
        begins = [part.train[0] for part in self._corpus.parts]
        return window_starts(windows, self._corpus.train_windows(seq_len), begins, seq_len, xp)

    def held_out(self, seq_len: int, batch_size: int) -> np.ndarray:
        """All complete held-out windows, [n, batch, T+1] int32, the last batch padded with −1."""
        return held_out_windows(self._corpus, seq_len, batch_size)

    def held_out_batch(self, spec: RunSpec, rows: Array) -> Batch:
        """The batch of one of them, in which padding weighs nothing."""
        real = rows[:, :1] >= 0
        rows = jnp.maximum(rows, 0)
        batch = self.batch(spec, (rows[:, :-1], rows[:, 1:]))
        return dataclasses.replace(batch, weights_BT=batch.weights_BT * real)

    def batch(self, spec: RunSpec, rows: tuple[Array, Array]) -> Batch:
        """Windows with their weights, and their document numbers where the spec wants them."""
        return next_token_batch(spec, *rows, self._corpus.end_of_document)


def held_out_windows(corpus: Corpus, seq_len: int, batch_size: int) -> np.ndarray:
    """All complete held-out windows, [n, batch, T+1] int32, the last batch padded with −1.

    Of a mixture, those of the first source come first.
    """
    firsts = [part.heldout[0] for part in corpus.parts] or [0]
    each = zip(firsts, corpus.heldout_windows(seq_len), strict=True)
    starts = np.concatenate([first + np.arange(count) * seq_len for first, count in each])
    count = len(starts)
    batch_size = min(batch_size, count)
    rows = np.full((-(-count // batch_size) * batch_size, seq_len + 1), -1, np.int32)
    rows[:count] = np.asarray(corpus.heldout)[starts[:, None] + np.arange(seq_len + 1)]
    return rows.reshape(-1, batch_size, seq_len + 1)


def next_token_batch(
    spec: RunSpec, inputs_BT: Array, targets_BT: Array, end_of_document: int
) -> Batch:
    """The batch of token windows in which documents are separated by `end_of_document`."""
    inputs_BT, targets_BT = (
        nn.with_logical_constraint(x, ("batch", None)) for x in (inputs_BT, targets_BT)
    )
    if spec.mask_end_of_document:
        weights_BT = (targets_BT != end_of_document).astype(jnp.float32)
    else:
        weights_BT = jnp.ones(targets_BT.shape, jnp.float32)
    segment_ids_BT = None
    if spec.document_attention:
        segment_ids_BT = jnp.cumsum(inputs_BT == end_of_document, axis=1)
    return Batch(inputs_BT, targets_BT, weights_BT, segment_ids_BT)
