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
from gptjax.train.config import RunSpec


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Batch:
    """Sequences of one step: `targets_BT[b, t]` follows `inputs_BT[b, t]`.

    Attributes:
      weights_BT: 1 where the target is scored; 0 at padding, prompts and whatever else a feed
        leaves out of the loss.
      segment_ids_BT: document numbers, where attention stays within documents.
      positions_BT: where each token is in its text, for packed sequences; None: 0…T−1.
    """

    inputs_BT: Array
    targets_BT: Array
    weights_BT: Array
    segment_ids_BT: Array | None = None
    positions_BT: Array | None = None

    def in_order(self) -> "Batch":
        """The same with its tokens sharded by the layout over devices, and in its order."""
        return jax.tree.map(_in_order, self)


def _in_order(x_BT: Array) -> Array:
    return nn.with_logical_constraint(ops.in_order(x_BT, axis=1), ("batch", "seq"))


class Feed(Protocol):
    """What a run is trained on. Everything a compiled program calls is traced.

    Attributes:
      arrays: pytree of host arrays that the program reads examples from, on the device.
    """

    @property
    def arrays(self) -> Any: ...

    def examples(self, spec: RunSpec) -> int:
        """How many there are; each pass of a run over them has another order."""

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> Any:
        """Traced: the rows of these examples, gathered from `arrays`."""

    def stream(self, spec: RunSpec, start: int) -> Iterator[Any]:
        """The same rows from the host, for step `start` and those after it."""

    def batch(self, spec: RunSpec, rows: Any) -> Batch:
        """Traced: the batch of these rows."""


class TokenFeed:
    """Next-token windows of a corpus."""

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus

    @property
    def arrays(self) -> np.ndarray:
        """The training tokens, one after another."""
        return np.asarray(self._corpus.train)

    def examples(self, spec: RunSpec) -> int:
        """Windows of `seq_len` inputs and targets."""
        return data.num_windows(len(self._corpus.train), spec.model.seq_len)

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> tuple[Array, Array]:
        """Inputs and targets of the windows."""
        return data.gather_jax(arrays, spec.model.seq_len, examples_B)

    def stream(self, spec: RunSpec, start: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Inputs and targets, read ahead by threads."""
        from gptjax.data.host_loader import host_loader

        length = spec.model.seq_len
        return host_loader(self._corpus.train, length, spec.seed, start, spec.batch_size)

    def batch(self, spec: RunSpec, rows: tuple[Array, Array]) -> Batch:
        """Windows with their weights, and their document numbers where the spec wants them."""
        return next_token_batch(spec, *rows, self._corpus.end_of_document)


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
