"""Rows of tokens from examples of unequal length, several in a row where they fit.

An example in a packed row has a document number and positions of its own, so that no answer sees
another example. Each takes one place less than it has tokens: no target crosses into the next.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from gptjax.align.encoding import Encoded


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Rows:
    """Rows of T places: what is read there, what follows, and whether that is learned.

    Attributes:
      inputs_NT, targets_NT: int32; 0 in places that hold nothing.
      scored_NT: uint8.
      segments_NT: the number of the example in its row, from 1; 0 where there is none. None: each
        row holds one example from its first place on.
      positions_NT: the place in the example.
    """

    inputs_NT: Any
    targets_NT: Any
    scored_NT: Any
    segments_NT: Any = None
    positions_NT: Any = None


def packed(examples: Sequence[Encoded], T: int) -> Rows:
    """Several examples in a row: the longest first, each into the fullest row that has room."""
    return _filled(_bins([len(example.ids) - 1 for example in examples], T), examples, T)


def one_by_one(examples: Sequence[Encoded], T: int) -> Rows:
    """A row for each example, padded at its end."""
    rows = _filled([[i] for i in range(len(examples))], examples, T)
    return dataclasses.replace(rows, segments_NT=None, positions_NT=None)


def _bins(sizes: Sequence[int], T: int) -> list[list[int]]:
    """Best fit, decreasing: the numbers of the examples in each row.

    >>> _bins([3, 5, 2, 4], 7)
    [[1, 2], [3, 0]]
    """
    bins: list[list[int]] = []
    by_room: list[list[int]] = [[] for _ in range(T + 1)]
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        room = next((room for room in range(sizes[i], T + 1) if by_room[room]), None)
        if room is None:
            bins.append([])
            at, room = len(bins) - 1, T
        else:
            at = by_room[room].pop()
        bins[at].append(i)
        by_room[room - sizes[i]].append(at)
    return bins


def _filled(bins: Sequence[Sequence[int]], examples: Sequence[Encoded], T: int) -> Rows:
    shape = (len(bins), T)
    inputs, targets, segments, positions = (np.zeros(shape, np.int32) for _ in range(4))
    scored = np.zeros(shape, np.uint8)
    for row, members in enumerate(bins):
        start = 0
        for number, member in enumerate(members, 1):
            example = examples[member]
            count = len(example.ids) - 1
            here = np.s_[row, start : start + count]
            inputs[here], targets[here] = example.ids[:-1], example.ids[1:]
            scored[here], segments[here] = example.scored[1:], number
            positions[here] = np.arange(count)
            start += count
    return Rows(inputs, targets, scored, segments, positions)
