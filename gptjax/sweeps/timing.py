"""Predicted time of cells: a model of the step time, and a schedule of bundles over workers."""

import dataclasses
import time
from collections.abc import Sequence, Set

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

    def order(self, left: Sequence[Bundle], compiled: Set[int] = frozenset()) -> list[Bundle]:
        """The order in which a worker with these programs tries what is left; equals as given."""
        spent = {
            bundle.name: self._seconds[bundle.name]
            + COMPILE_SECONDS * len(self.programs(bundle) - compiled)
            for bundle in left
        }
        longest = max(spent.values(), default=0.0)

        def key(bundle: Bundle) -> tuple[bool, float]:
            mine = spent[bundle.name]
            return self.programs(bundle) <= compiled and 2 * mine > longest, mine

        return sorted(left, key=key, reverse=True)


def schedule(bundles: Sequence[Bundle], reference: float, workers: int) -> list[Lane]:
    """Bundles by `Turns` onto the worker that is free, compiling included; one lane a worker.

    Args:
      reference: FLOP/s, `reference_rate`.
    """
    lanes = [Lane()] * max(1, workers)
    compiled: list[set[int]] = [set() for _ in lanes]
    seconds = predicted_by_cell(bundles, reference)
    turns, left = Turns(bundles), list(bundles)
    while left:
        i = min(range(len(lanes)), key=lambda lane: lanes[lane].finish)
        bundle = turns.order(left, compiled[i])[0]
        left.remove(bundle)
        new = turns.programs(bundle) - compiled[i]
        compiled[i] |= new
        spent = COMPILE_SECONDS * len(new) + sum(seconds[cell.id] for cell in bundle.cells)
        lanes[i] = Lane((*lanes[i].bundles, bundle), lanes[i].finish + spent)
    return lanes


def predicted_total(bundles: Sequence[Bundle], reference: float, workers: int) -> float:
    """Wall seconds of a sweep: when the last worker ends."""
    return max(lane.finish for lane in schedule(bundles, reference, workers))


def longest_first(bundles: Sequence[Bundle]) -> list[Bundle]:
    """Bundles by falling time, so that no long one is left for the end."""
    return Turns(bundles).order(bundles)
