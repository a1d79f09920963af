"""Submeshes of a process: several devices for a large cell, one each for small cells."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from gptjax.cost import memory
from gptjax.data import Corpus
from gptjax.errors import UserError
from gptjax.parallel import MeshConfig, check_cuts, resolve
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.config import SweepConfig
from gptjax.train import RunSpec, Session, TrainConfig, cuts, make_layout

USABLE = 0.8
"""Share of a device's memory that a run may fill: the estimate knows nothing of fragments."""


def device_limit(sweep: SweepConfig, device: Any) -> float:
    """Bytes that a run may fill on a device; infinite where nothing is said of it."""
    if sweep.device_gb:
        return sweep.device_gb * 2**30
    stats = device.memory_stats() or {}
    return USABLE * stats.get("bytes_limit", float("inf"))


def devices_for(run: RunSpec, limit: float, available: int) -> int:
    """The fewest devices, a power of two, on each of which the part of a run fits into `limit`.

    Where it fits on none, the most that its sizes can be cut over.
    """
    if math.isinf(limit):
        return 1
    sizes = [1]
    while 2 * sizes[-1] <= available and _can_be_cut(run, 2 * sizes[-1]):
        sizes.append(2 * sizes[-1])
    return next((size for size in sizes if _held(run, size) <= limit), sizes[-1])


def _held(run: RunSpec, size: int) -> float:
    """Bytes of a run on each of so many devices."""
    return memory.estimate_bytes(run, _mesh(size), size).total


def _can_be_cut(run: RunSpec, parts: int) -> bool:
    mesh = _mesh(parts)
    try:
        check_cuts(resolve(mesh, parts), cuts(run, mesh))
    except UserError:
        return False
    return True


def _mesh(parts: int) -> MeshConfig:
    return MeshConfig(data=1, fsdp=parts)


def sizes_of(sweep: SweepConfig, devices: Sequence[Any]) -> Callable[[Bundle], int]:
    """How many of these devices each bundle gets; a stack is sized to fit on one."""
    limit = device_limit(sweep, devices[0])

    def size(bundle: Bundle) -> int:
        if bundle.stacked:
            return 1
        return max(devices_for(cell.run, limit, len(devices)) for cell in bundle.cells)

    return size


def session_on(
    corpus: Corpus, sweep: SweepConfig, train: TrainConfig, devices: Sequence[Any]
) -> Session:
    """A session whose runs are cut over these devices."""
    if len(devices) == 1:
        return Session(corpus, train, shares_programs=sweep.part_tokens > 0)
    mesh = _mesh(len(devices))
    return Session(corpus, train, lambda spec: make_layout(mesh, spec, devices))
