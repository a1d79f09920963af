"""Predicted time of cells: a model of the step time, and a schedule of bundles over workers."""

import dataclasses
import heapq
import time
from collections.abc import Iterable, Sequence, Set

import numpy as np

from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.plan import Cell
from gptjax.train import RunSpec
from gptjax.train.micro_batches import shared_program

COMPILE_SECONDS = 5.0
"""A new shape: step and evaluation programs of two to four unrolled layers, one core."""

CALL_SECONDS_PER_LAYER = 8.5e-5
"""Seconds of a layer's step at any size (kernel launches, small reductions), one core."""

REFERENCE = 1e11
"""FLOP/s of a core's products, where all that matters is which of two bundles takes longer."""

WIDTH_OF_HALF_SPEED = 22.0
"""Width at which a step reaches half of the rate that wide layers reach."""

WIDE_RATE_OVER_REFERENCE = 0.8
"""FLOP/s of a wide step over the reference product's, both on one core."""


def reference_rate(seconds: float = 0.05) -> float:
    """FLOP/s of 64 × 64 products in NumPy on one core: how fast this machine is just now."""
    a = np.random.default_rng(0).standard_normal((64, 64)).astype(np.float32)
    b = a.copy()
    best, stop = 0.0, time.perf_counter() + seconds
    while time.perf_counter() < stop:
        started = time.perf_counter()
        for _ in range(50):
            a @ b
        best = max(best, 50 * 2 * 64**3 / (time.perf_counter() - started))
    return best


def predicted_seconds(cell: Cell, updates: int, reference: float) -> float:
    """Seconds of so many updates of a cell on one core of a machine with this `reference_rate`."""
    model = cell.run.model
    share = model.width / (model.width + WIDTH_OF_HALF_SPEED)
    rate = WIDE_RATE_OVER_REFERENCE * reference * share
    seconds = cell.flops / cell.run.steps / rate + model.depth * CALL_SECONDS_PER_LAYER
    return updates * seconds


def predicted_by_cell(bundles: Sequence[Bundle], reference: float) -> dict[str, float]:
    """Training seconds that each cell adds, by its identity."""
    return {
        cell.id: predicted_seconds(cell, updates, reference)
        for bundle in bundles
        for cell, updates in zip(bundle.cells, bundle.updates, strict=True)
    }


@dataclasses.dataclass(frozen=True)
class Lane:
    """Bundles that one worker is predicted to train, in order, and the second when it ends."""

    bundles: tuple[Bundle, ...] = ()
    finish: float = 0.0


class Turns:
    """Which bundle a worker takes next: the longest, by preference of those it has compiled.

    A bundle whose programs are compiled goes before others that are not twice as long, compiling
    included: what is saved is the compiling, or at least the tracing, and what stays for the end is
    short all the same.
    """

    def __init__(self, bundles: Sequence[Bundle]) -> None:
        numbers: dict[RunSpec, int] = {}
        self._programs = {
            bundle.name: frozenset(
                numbers.setdefault(shared_program(cell.run), len(numbers)) for cell in bundle.cells
            )
            for bundle in bundles
        }
        seconds = predicted_by_cell(bundles, REFERENCE)
        self._seconds = {
            bundle.name: sum(seconds[cell.id] for cell in bundle.cells) for bundle in bundles
        }

    def programs(self, bundle: Bundle) -> frozenset[int]:
        """The programs that a worker compiles for a bundle."""
        return self._programs[bundle.name]

    def seconds(self, bundle: Bundle, compiled: Set[int]) -> float:
        """What a bundle takes a worker with these programs, up to the machine's speed."""
        new = self.programs(bundle) - compiled
        return self._seconds[bundle.name] + COMPILE_SECONDS * len(new)

    def order(self, left: Sequence[Bundle], compiled: Set[int] = frozenset()) -> list[Bundle]:
        """The order in which a worker with these programs tries what is left; equals as given."""
        spent = {bundle.name: self.seconds(bundle, compiled) for bundle in left}
        longest = max(spent.values(), default=0.0)

        def key(bundle: Bundle) -> tuple[bool, float]:
            mine = spent[bundle.name]
            return self.programs(bundle) <= compiled and 2 * mine > longest, mine

        return sorted(left, key=key, reverse=True)


class Queue:
    """Bundles that are left for one worker, in the order of `Turns.order`, found one by one.

    One heap has every bundle by its seconds, another those whose programs this worker has compiled.
    Seconds only fall, as programs are compiled, so an entry is put right when it comes to the top:
    a look costs what has changed, and a whole schedule grows with the number of bundles.
    """

    def __init__(self, turns: Turns, bundles: Iterable[Bundle], left: dict[str, Bundle]) -> None:
        """`left` is what nobody has taken, by name; several workers may share it."""
        self._turns, self.left = turns, left
        self._bundles = list(bundles)
        self._number = {bundle.name: number for number, bundle in enumerate(self._bundles)}
        self._users: dict[int, list[int]] = {}
        for number, bundle in enumerate(self._bundles):
            for program in turns.programs(bundle):
                self._users.setdefault(program, []).append(number)
        self.compiled: set[int] = set()
        self._all = [self._entry(number) for number in range(len(self._bundles))]
        self._known: list[tuple[float, int]] = []
        heapq.heapify(self._all)

    def longest(self) -> Bundle | None:
        """The bundle of all that are left which takes this worker longest."""
        return self._top(self._all)

    def next(self) -> Bundle | None:
        """The first of `Turns.order`; None when nothing is left."""
        longest, known = self.longest(), self._top(self._known)
        if longest is None or known is None:
            return longest
        mine, most = (self._turns.seconds(one, self.compiled) for one in (known, longest))
        return known if 2 * mine > most else longest

    def compile(self, bundle: Bundle) -> int:
        """Note that this worker has a bundle's programs; returns how many are new."""
        new = self._turns.programs(bundle) - self.compiled
        self.compiled |= new
        for number in sorted({user for program in new for user in self._users[program]}):
            if self._turns.programs(self._bundles[number]) <= self.compiled:
                heapq.heappush(self._known, self._entry(number))
        return len(new)

    def put_back(self, bundle: Bundle) -> None:
        """Add a bundle again to what is left."""
        self.left[bundle.name] = bundle
        number = self._number[bundle.name]
        heapq.heappush(self._all, self._entry(number))
        if self._turns.programs(bundle) <= self.compiled:
            heapq.heappush(self._known, self._entry(number))

    def _entry(self, number: int) -> tuple[float, int]:
        """Sorts the longest first, equals as given."""
        return -self._turns.seconds(self._bundles[number], self.compiled), number

    def _top(self, heap: list[tuple[float, int]]) -> Bundle | None:
        while heap:
            number = heap[0][1]
            if self._bundles[number].name not in self.left:
                heapq.heappop(heap)
            elif heap[0] != self._entry(number):
                heapq.heapreplace(heap, self._entry(number))
            else:
                return self._bundles[number]
        return None


def schedule(bundles: Sequence[Bundle], reference: float, workers: int) -> list[Lane]:
    """Bundles by `Turns` onto the worker that is free, compiling included; one lane a worker.

    Args:
      reference: FLOP/s, `reference_rate`.
    """
    seconds, turns = predicted_by_cell(bundles, reference), Turns(bundles)
    left = {bundle.name: bundle for bundle in bundles}
    queues = [Queue(turns, bundles, left) for _ in range(max(1, workers))]
    taken: list[list[Bundle]] = [[] for _ in queues]
    free = [(0.0, number) for number in range(len(queues))]
    while left:
        finish, number = heapq.heappop(free)
        bundle = queues[number].next()
        assert bundle is not None
        del left[bundle.name]
        taken[number].append(bundle)
        spent = COMPILE_SECONDS * queues[number].compile(bundle)
        spent += sum(seconds[cell.id] for cell in bundle.cells)
        heapq.heappush(free, (finish + spent, number))
    ends = {number: finish for finish, number in free}
    return [Lane(tuple(mine), ends[number]) for number, mine in enumerate(taken)]


def predicted_total(bundles: Sequence[Bundle], reference: float, workers: int) -> float:
    """Wall seconds of a sweep: when the last worker ends."""
    return max(lane.finish for lane in schedule(bundles, reference, workers))


def longest_first(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Bundles by falling time, so that no long one is left for the end."""
    return Turns(bundles).order(bundles)
