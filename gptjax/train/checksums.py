"""Checksums of states: a flipped bit of a checkpoint is found when it is read.

One process hashes the whole state. Several processes each hold a part, so they add up a hash of
every element with its position: a sum does not depend on which process holds what, and a checkpoint
is checked by any number of processes on any mesh. What one process saved, several gather leaf by
leaf when they read it: its state fitted into one of them.
"""

import hashlib
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from gptjax.parallel import processes

SUMS = "sums:"
"""Marks the checksum of several processes."""


def checksum(state: Any) -> str:
    """Of a state that may be spread over processes, all of which ask for it together."""
    return sums(state) if jax.process_count() > 1 else sha256(state)


def agrees(state: Any, wanted: str) -> bool:
    """Whether a state that was read has the checksum that was saved with it."""
    kind = sums if wanted.startswith(SUMS) else sha256
    return kind(state) == wanted


def sha256(state: Any) -> str:
    """SHA-256 of all numbers of a state, with their paths, types and shapes, on every process."""
    hasher = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.ascontiguousarray(_whole(leaf))
        hasher.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        hasher.update(array.tobytes())
    return hasher.hexdigest()


def _whole(leaf: Any) -> Any:
    """A leaf of which each process may hold a part."""
    if getattr(leaf, "is_fully_addressable", True):
        return leaf
    return multihost_utils.process_allgather(leaf, tiled=True)


def sums(state: Any) -> str:
    """The sum over elements of a hash of position and bits, of each array, over all processes."""
    leaves = jax.tree_util.tree_leaves_with_path(state)
    with np.errstate(over="ignore"):  # modulo 2^64 is meant
        mine = np.array([_sum_of(leaf) for _, leaf in leaves], np.uint64)
    names = [f"{jax.tree_util.keystr(path)} {leaf.dtype} {leaf.shape}" for path, leaf in leaves]
    return SUMS + hashlib.sha256(f"{names} {processes.total(mine).tolist()}".encode()).hexdigest()


def _sum_of(leaf: Any) -> np.uint64:
    """Of the part that this process holds, each element counted by one of its holders."""
    found = np.uint64(0)
    for shard in leaf.addressable_shards:
        if shard.replica_id == 0:
            part = np.ascontiguousarray(shard.data)
            places = _places(leaf.shape, shard.index)
            bits = part.view(f"u{part.dtype.itemsize}").astype(np.uint64)
            found += np.sum(_mixed(_mixed(places) + bits.reshape(places.shape)), dtype=np.uint64)
    return found


def _places(shape: tuple[int, ...], index: tuple[slice, ...]) -> np.ndarray:
    """The positions of a shard's elements in the flattened array."""
    place = np.zeros((1,) * len(shape), np.uint64)
    stride = 1
    for axis in reversed(range(len(shape))):
        start, stop, _ = index[axis].indices(shape[axis])
        along = np.arange(start, stop, dtype=np.uint64) * np.uint64(stride)
        place = place + along.reshape(-1, *(1,) * (len(shape) - 1 - axis))
        stride *= shape[axis]
    return place


def _mixed(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finaliser (Steele, Lea & Flood 2014): every bit changes half of the others."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
