"""Agreement of the processes of one run on common decisions; one process sends nothing."""

from typing import Any

import jax
import numpy as np


def is_first() -> bool:
    """Whether this process writes what a run writes once."""
    return jax.process_index() == 0


def agree(value: int) -> int:
    """The first process's value, in every process: clocks differ, and programs must not."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    return int(multihost_utils.broadcast_one_to_all(np.int32(value)))


def any_process(flag: bool) -> bool:
    """Whether the flag is set in any process."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(np.any(multihost_utils.process_allgather(np.int32(flag))))


def total(values: np.ndarray) -> np.ndarray:
    """The sums over processes of uint64 numbers, modulo 2^64."""
    if jax.process_count() == 1:
        return values
    from jax.experimental import multihost_utils

    halves = values.view(np.uint32)  # JAX has no 64 bits by default
    found = np.ascontiguousarray(multihost_utils.process_allgather(halves))
    return np.asarray(np.sum(found.view(np.uint64), axis=0, dtype=np.uint64))


def whole(x: Any) -> np.ndarray:
    """An array's full value on this host, gathered from all its shards."""
    if getattr(x, "is_fully_addressable", True) or x.is_fully_replicated:
        return np.asarray(x)
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(x, tiled=True))
