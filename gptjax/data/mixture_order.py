"""The order of examples of a mixture: a pure function of (seed, step) in NumPy and in JAX.

Example e of a run is one of a source: which one, and how many of that source came before, is read
from a cycle (`mixture.cycle`). That number is an example of the source alone, in the order that
`shuffle` gives it. Windows of all sources are numbered on, the first source's first.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from gptjax.data.mixture import PLACES, counts_of, cycle, phase_ends, rows_of
from gptjax.data.shuffle import window_of_each_jax, window_of_each_numpy


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Schedule:
    """The order of K sources in P phases: inputs of a program, so that mixtures share one.

    Attributes:
      lengths_P: examples of a phase's cycle, uint32.
      sources_PC: the source of each place of a cycle, padded to PLACES, int32.
      earlier_PC: how often that source came earlier in the cycle, uint32.
      counts_PK: how often a source is in the cycle, uint32.
      begins_P: the first example of each phase, uint32.
      before_PK: examples of each source before the phase, uint32.
    """

    lengths_P: Any
    sources_PC: Any
    earlier_PC: Any
    counts_PK: Any
    begins_P: Any
    before_PK: Any


def make_schedule(
    weights: Sequence[float], phases: Sequence[float], steps: int, batch: int
) -> Schedule:
    """The schedule of a run of so many steps, in host arrays."""
    rows = [counts_of(row) for row in rows_of(weights, phases)]
    cycles = [cycle(row) for row in rows]
    begins = np.array([0, *phase_ends(phases, steps)[:-1]], np.int64) * batch
    before = [np.zeros(len(rows[0]), np.int64)]
    for row, places, span in zip(rows, cycles, np.diff(begins), strict=False):
        whole, rest = divmod(int(span), len(places))
        partial = np.bincount(places[:rest], minlength=len(row))
        before.append(before[-1] + whole * np.array(row) + partial)
    return Schedule(
        lengths_P=np.array([len(places) for places in cycles], np.uint32),
        sources_PC=np.stack([_padded(places) for places in cycles]).astype(np.int32),
        earlier_PC=np.stack([_padded(_earlier(places)) for places in cycles]).astype(np.uint32),
        counts_PK=np.array(rows, np.uint32),
        begins_P=begins.astype(np.uint32),
        before_PK=np.stack(before[: len(rows)]).astype(np.uint32),
    )


def _padded(places: np.ndarray) -> np.ndarray:
    return np.pad(places, (0, PLACES - len(places)))


def _earlier(places: np.ndarray) -> np.ndarray:
    """How often each place's source came earlier."""
    found = np.zeros(len(places), np.int64)
    for source in np.unique(places):
        mine = places == source
        found[mine] = np.arange(mine.sum())
    return found


def sources_of(schedule: Schedule, examples: Any, xp: Any = np) -> tuple[Any, Any]:
    """The source of each example, and its number among that source's examples."""
    examples = xp.asarray(examples).astype(xp.uint32)
    later = examples[:, None] >= xp.asarray(schedule.begins_P)[None, 1:]
    phase = later.sum(axis=1)
    local = examples - xp.asarray(schedule.begins_P)[phase]
    length = xp.asarray(schedule.lengths_P)[phase]
    turn, place = local // length, local % length
    source = xp.asarray(schedule.sources_PC)[phase, place]
    number = (
        xp.asarray(schedule.before_PK)[phase, source]
        + turn * xp.asarray(schedule.counts_PK)[phase, source]
        + xp.asarray(schedule.earlier_PC)[phase, place]
    )
    return source, number


def mixed_windows_numpy(
    schedule: Schedule, seed: int, step: int, batch: int, sizes: Sequence[int]
) -> np.ndarray:
    """The windows that a step reads, numbered over all sources, int64 of shape (batch,)."""
    source, number = sources_of(schedule, int(step) * batch + np.arange(batch))
    return _firsts(sizes)[source] + window_of_each_numpy(seed, number, source, sizes)


def mixed_windows_jax(
    schedule: Schedule, seed: Any, step: Any, batch: int, sizes: Sequence[int]
) -> Array:
    """The same inside a compiled step, uint32; `batch` and `sizes` are static."""
    first = jnp.asarray(step).astype(jnp.uint32) * jnp.uint32(batch)
    source, number = sources_of(schedule, first + jnp.arange(batch, dtype=jnp.uint32), jnp)
    firsts = jnp.asarray(_firsts(sizes).astype(np.uint32))
    return firsts[source] + window_of_each_jax(seed, number, source, sizes)


def window_starts(
    windows: Any, sizes: Sequence[int], begins: Sequence[int], seq_len: int, xp: Any = np
) -> Any:
    """Where windows that are numbered over all sources begin in one array of tokens.

    Args:
      begins: where each source's tokens begin.
    """
    firsts = _firsts(sizes)
    source = (windows[:, None] >= xp.asarray(firsts[1:].astype(np.uint32))[None]).sum(axis=1)
    kind = np.int64 if xp is np else np.int32
    shift = (np.asarray(begins, np.int64) - firsts * seq_len).astype(kind)
    return windows.astype(kind) * seq_len + xp.asarray(shift)[source]


def _firsts(sizes: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *sizes[:-1]])
