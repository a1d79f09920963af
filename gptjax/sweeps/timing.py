"""How long cells will take: a model of the step time, and a schedule of cells over workers."""

import time
from collections.abc import Sequence

import numpy as np

from gptjax.sweeps import shapes
from gptjax.sweeps.plan import Cell

COMPILE_SECONDS = 5.0
"""A new shape: step and evaluation programs of two to four unrolled layers, one core."""

CALL_SECONDS_PER_LAYER = 8.5e-5
"""What a layer's step costs whatever its size (kernel launches, small reductions), one core."""

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


def predicted_seconds(cell: Cell, reference: float) -> float:
    """Training seconds of a cell on one core of a machine with this `reference_rate`."""
    model = cell.run.model
    share = model.width / (model.width + WIDTH_OF_HALF_SPEED)
    rate = WIDE_RATE_OVER_REFERENCE * reference * share
    return cell.flops / rate + cell.run.steps * model.depth * CALL_SECONDS_PER_LAYER


def predicted_total(cells: Sequence[Cell], reference: float, workers: int) -> float:
    """Wall seconds of a sweep: longest first onto the worker that is free, compiling included."""
    finish = [0.0] * max(1, workers)
    compiled: list[set] = [set() for _ in finish]
    for cell in longest_first(cells):
        i = finish.index(min(finish))
        program = cell.run.program
        if program not in compiled[i]:
            compiled[i].add(program)
            finish[i] += COMPILE_SECONDS
        finish[i] += predicted_seconds(cell, reference)
    return max(finish)


def longest_first(cells: Sequence[Cell]) -> list[Cell]:
    """Cells by falling cost, so that no long one is left for the end."""
    return sorted(cells, key=lambda cell: (-cell.flops, shapes.size_of(cell.run.model), cell.id))
