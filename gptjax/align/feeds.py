"""Feeds of fine-tuning: batches gathered from arrays whose first axis counts examples."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax import data
from gptjax.align.packing import Rows
from gptjax.train import Batch, RunSpec


@dataclasses.dataclass(frozen=True)
class ExampleFeed:
    """Examples by their numbers, and the batch that their rows make.

    Attributes:
      arrays: pytree of host arrays, all with the examples on their first axis.
      make: traced: the rows of a batch's examples → the batch.
    """

    arrays: Any
    make: Callable[[Any], Any]

    @property
    def count(self) -> int:
        """How many examples there are."""
        return int(jax.tree.leaves(self.arrays)[0].shape[0])

    def examples(self, spec: RunSpec) -> int:
        """The same, for every spec."""
        return self.count

    def read(self, spec: RunSpec, arrays: Any, examples_B: Array) -> Any:
        """The rows of these examples."""
        return jax.tree.map(lambda x: x[examples_B], arrays)

    def stream(self, spec: RunSpec, start: int) -> Iterator[Any]:
        """The same rows from the host, step after step."""
        for step in itertools.count(start):
            which = data.windows_numpy(spec.seed, step, spec.batch_size, self.count)
            yield jax.tree.map(lambda x: x[which], self.arrays)  # noqa: B023

    def parts(self, size: int) -> Iterator[Any]:
        """All rows in their order, so many at a time; the last part may have fewer."""
        for first in range(0, self.count, size):
            some = np.s_[first : first + size]
            yield jax.tree.map(lambda x: np.asarray(x)[some], self.arrays)  # noqa: B023

    def batch(self, spec: RunSpec, rows: Any) -> Any:
        """The batch of rows."""
        return self.make(rows)


def batch_of(rows: Rows) -> Batch:
    """Rows as a batch in which only answers are scored."""
    return Batch(
        jnp.asarray(rows.inputs_NT),
        jnp.asarray(rows.targets_NT),
        jnp.asarray(rows.scored_NT, jnp.float32),
        None if rows.segments_NT is None else jnp.asarray(rows.segments_NT),
        None if rows.positions_NT is None else jnp.asarray(rows.positions_NT),
    )
