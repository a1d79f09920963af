"""Pipeline schedules as tables: which stage works on which micro-batch in which tick.

A tick is one forward or one backward pass of one stage's layers; both count the same. Virtual
stage k = chunk · stages + stage holds the k-th part of the layers.
"""

import dataclasses
from collections.abc import Iterator

import numpy as np

IDLE, FORWARD, BACKWARD = 0, 1, 2

Op = tuple[int, int, int]
"""(kind, chunk, micro-batch)."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The operation of every stage in every tick.

    Attributes:
      stages, micro_batches, chunks: sizes; a stage holds `chunks` parts of the layers.
      ops: `ops[tick][stage]`, None where the stage waits.
    """

    stages: int
    micro_batches: int
    chunks: int
    ops: tuple[tuple[Op | None, ...], ...]

    @property
    def bubble(self) -> float:
        """Share of the stages' ticks in which they wait."""
        waiting = sum(op is None for row in self.ops for op in row)
        return waiting / (len(self.ops) * self.stages)

    @property
    def held(self) -> int:
        """Largest number of micro-batches of one part that a stage holds for its backward pass."""
        most = 0
        for stage in range(self.stages):
            held = 0
            for row in self.ops:
                op = row[stage]
                held += 0 if op is None else {FORWARD: 1, BACKWARD: -1}[op[0]]
                most = max(most, held)
        return most


def make_schedule(name: str, stages: int, micro_batches: int, chunks: int = 1) -> Schedule:
    """The table of a schedule.

    `gpipe` (Huang et al. 2019, arXiv:1811.06965): all forward passes, then all backward passes.
    `1f1b` (PipeDream-flush; Narayanan et al. 2021, arXiv:2104.04473): as soon as it can, a stage
    alternates, so that it holds at most `stages` micro-batches. `interleaved` (the same paper,
    section 2.2): a stage holds several parts of the layers, and the bubble shrinks by their number;
    the micro-batches must be a multiple of the stages.

    >>> make_schedule("1f1b", 4, 8).bubble == 3 / (8 + 3)
    True
    """
    orders = [list(ORDERS[name](stages, micro_batches, chunks, s)) for s in range(stages)]
    done: dict[tuple[int, int, int], int] = {}
    rows: list[tuple[Op | None, ...]] = []
    while any(orders):
        tick = len(rows)
        row: list[Op | None] = []
        for stage, order in enumerate(orders):
            ready = order and _ready(done, order[0], stage, stages, chunks, tick)
            row.append(order.pop(0) if ready else None)
        for stage, op in enumerate(row):
            if op is not None:
                done[op[0], op[1] * stages + stage, op[2]] = tick
        assert any(op is not None for op in row), "the orders of the stages wait for each other"
        rows.append(tuple(row))
    return Schedule(stages, micro_batches, chunks, tuple(rows))


def _ready(
    done: dict[tuple[int, int, int], int], op: Op, stage: int, stages: int, chunks: int, tick: int
) -> bool:
    """Whether what an operation needs was finished in an earlier tick."""
    kind, chunk, micro = op
    k, last = chunk * stages + stage, chunks * stages - 1
    if kind == FORWARD:
        return k == 0 or done.get((FORWARD, k - 1, micro), tick) < tick
    own = done.get((FORWARD, k, micro), tick) < tick
    return own and (k == last or done.get((BACKWARD, k + 1, micro), tick) < tick)


def _gpipe(stages: int, micro_batches: int, chunks: int, stage: int) -> Iterator[Op]:
    for kind in (FORWARD, BACKWARD):
        yield from ((kind, 0, i) for i in range(micro_batches))


def _one_forward_one_backward(
    stages: int, micro_batches: int, chunks: int, stage: int
) -> Iterator[Op]:
    return _alternate(stages - 1 - stage, *_passes(stages, micro_batches, 1))


def _interleaved(stages: int, micro_batches: int, chunks: int, stage: int) -> Iterator[Op]:
    ahead = 2 * (stages - 1 - stage) + (chunks - 1) * stages
    return _alternate(ahead, *_passes(stages, micro_batches, chunks))


def _passes(stages: int, micro_batches: int, chunks: int) -> tuple[list[Op], list[Op]]:
    """A stage's forward and backward passes: `stages` micro-batches through one chunk at a time."""
    forward, backward = [], []
    for start in range(0, micro_batches, stages):
        group = range(start, min(start + stages, micro_batches))
        forward += [(FORWARD, c, i) for c in range(chunks) for i in group]
        backward += [(BACKWARD, c, i) for c in reversed(range(chunks)) for i in group]
    return forward, backward


def _alternate(ahead: int, forward: list[Op], backward: list[Op]) -> Iterator[Op]:
    """`ahead` forward passes, then one of each in turn, then the rest of the backward passes."""
    ahead = min(ahead, len(forward))
    yield from forward[:ahead]
    for op, back in zip(forward[ahead:], backward, strict=False):
        yield op
        yield back
    yield from backward[len(forward) - ahead :]


ORDERS = {"gpipe": _gpipe, "1f1b": _one_forward_one_backward, "interleaved": _interleaved}
"""The choices of `mesh.schedule`: the order of passes on one stage."""


COLUMNS = (
    "kind",
    "chunk",
    "micro",
    "first",
    "last",
    "x_slot",
    "g_slot",
    "x_arrives",
    "g_arrives",
)


@dataclasses.dataclass(frozen=True)
class Program:
    """A schedule with places for what is under way.

    Attributes:
      table: [ticks, stages, columns] int32; `x_arrives` and `g_arrives` are the slots that take
        what a neighbour sent in the tick before, −1 where nothing came.
      x_slots, g_slots: places for inputs and for gradients of outputs on every stage.
    """

    table: np.ndarray
    x_slots: int
    g_slots: int


def make_program(schedule: Schedule) -> Program:
    """Give every activation and gradient a slot from its arrival to its last use."""
    p, last = schedule.stages, schedule.stages * schedule.chunks - 1
    at = {
        (op[0], op[1] * p + stage, op[2]): tick
        for tick, row in enumerate(schedule.ops)
        for stage, op in enumerate(row)
        if op is not None
    }
    table = np.zeros((len(schedule.ops), p, len(COLUMNS)), np.int32)
    column = {name: i for i, name in enumerate(COLUMNS)}
    table[..., [column["x_arrives"], column["g_arrives"]]] = -1
    x_spans: dict[int, list] = {stage: [] for stage in range(p)}
    g_spans: dict[int, list] = {stage: [] for stage in range(p)}
    for (kind, k, i), tick in at.items():
        end = at[BACKWARD, k, i]
        if kind == FORWARD and k > 0:
            x_spans[k % p].append((at[FORWARD, k - 1, i] + 1, end, tick))
        if kind == BACKWARD and k < last:
            g_spans[k % p].append((at[BACKWARD, k + 1, i] + 1, end, end))
        values = {"kind": kind, "chunk": k // p, "micro": i, "first": k == 0, "last": k == last}
        for name, value in values.items():
            table[tick, k % p, column[name]] = value
    counts = []
    for name, spans in (("x", x_spans), ("g", g_spans)):
        most = 1
        for stage, found in spans.items():
            free_at: list[int] = []
            for arrival, end, use in sorted(found):
                slot = next((n for n, t in enumerate(free_at) if t < arrival), len(free_at))
                free_at[slot : slot + 1] = [end]
                table[arrival, stage, column[f"{name}_arrives"]] = slot
                table[[use, end], stage, column[f"{name}_slot"]] = slot
            most = max(most, len(free_at))
        counts.append(most)
    return Program(table, *counts)
