"""The host loader: batches read ahead through Grain, for tokens that do not fit on the device.

The same index function as on the device decides which windows a step reads, so the batches are the
same, and the whole state of the loader is the number of the next step.
"""

from collections.abc import Callable, Iterator
from typing import Any, SupportsIndex

import numpy as np

from gptjax.data.shuffle import batch_numpy, num_windows
from gptjax.errors import UserError

MAX_STEPS = 1 << 40


Rows = Callable[[int], tuple[np.ndarray, np.ndarray]]
"""The batch of a step: a pure function of its number."""


class _Batches:
    """A random-access source of batches: item s is what step s reads."""

    def __init__(self, rows: Rows):
        self._rows = rows

    def __len__(self) -> int:
        return MAX_STEPS

    def __getitem__(self, step: SupportsIndex) -> tuple[np.ndarray, np.ndarray]:
        return self._rows(int(step))

    def __repr__(self) -> str:
        return "batches of steps"


class HostLoader(Iterator):
    """An endless iterator of (inputs, targets), int32 of shape (batch, seq_len) each.

    Attributes:
      step: the step whose batch comes next: all there is to save. It may be set.
    """

    def __init__(self, batches: _Batches, start_step: int, threads: int, prefetch: int):
        import grain

        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        self._grain: Any = iter(grain.MapDataset.source(batches).to_iter_dataset(options))
        self.step = start_step

    @property
    def step(self) -> int:
        return self._step

    @step.setter
    def step(self, step: int) -> None:
        self._grain.set_state({"next_index": int(step)})
        self._step = int(step)

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        item = next(self._grain)
        self._step += 1
        return item


def host_loader(
    tokens: np.ndarray,
    seq_len: int,
    seed: int,
    start_step: int,
    batch: int,
    *,
    threads: int = 2,
    prefetch: int = 4,
) -> HostLoader:
    """The batches of steps start_step, start_step + 1, …, read ahead by threads.

    Args:
      tokens: ids of one side, usually a memory map.
      threads, prefetch: how many threads read ahead, and by how many batches.

    Raises:
      UserError: where the tokens hold no whole window.
    """
    if num_windows(len(tokens), seq_len) < 1:
        raise UserError(
            f"model.seq_len={seq_len} needs {seq_len + 1} tokens, and there are {len(tokens)}; "
            "give more text or a shorter seq_len"
        )
    rows = lambda step: batch_numpy(tokens, seq_len, seed, step, batch)  # noqa: E731
    return read_ahead(rows, start_step, threads=threads, prefetch=prefetch)


def read_ahead(rows: Rows, start_step: int, *, threads: int = 2, prefetch: int = 4) -> HostLoader:
    """The batches of steps start_step, start_step + 1, …, made ahead by threads."""
    return HostLoader(_Batches(rows), start_step, threads, prefetch)
