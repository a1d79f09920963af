"""Bundles: cells that a worker takes together, because one saves work for the other.

Runs of one trunk (`RunSpec.trunk`) agree bit for bit until the learning rate of the shorter one
begins to fall. A bundle trains that beginning once and forks a copy off for each cell, so sharing
changes what a sweep costs and not one bit of its records.

Runs of one program (`RunSpec.program`) differ in numbers that the program takes as inputs: seed,
learning rate, weight decay, initial scale, length. They can be stacked: one program trains them
side by side, which fills a device that one small run leaves idle. Their numbers then equal those of
separate runs to float tolerance, so the stack is part of a sweep's config.
"""

import dataclasses
from collections.abc import Sequence

from gptjax.cost import memory
from gptjax.identity import digest
from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.plan import Cell
from gptjax.train import RunSpec, TrainConfig


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Cells that one worker trains, the shortest first.

    Attributes:
      name: what is claimed.
      cells: at least one.
      shares: whether all have one trunk, and leave it one after the other.
      stacked: whether they, or what is left of them after the trunk, are trained side by side.
    """

    name: str
    cells: tuple[Cell, ...]
    shares: bool = False
    stacked: bool = False

    @property
    def total_flops(self) -> float:
        """Exact training FLOPs of the whole bundle."""
        return sum(self.flops)

    @property
    def updates(self) -> tuple[int, ...]:
        """Updates that each cell adds to what is trained already."""
        forks = [cell.run.shared_steps if self.shares else 0 for cell in self.cells]
        starts = [0, *forks[:-1]]
        return tuple(cell.run.steps - start for cell, start in zip(self.cells, starts, strict=True))

    @property
    def flops(self) -> tuple[float, ...]:
        """Exact training FLOPs of these updates."""
        return tuple(
            cell.flops * updates / cell.run.steps
            for cell, updates in zip(self.cells, self.updates, strict=True)
        )


def make_bundles(sweep: SweepConfig, train: TrainConfig, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells by trunk, and those that are alone with theirs by program.

    A cell with evaluations on its way takes no part in a trunk. The branches of a trunk are stacked
    where a stack has room for all of them.
    """
    groups: dict[str, list[Cell]] = {}
    sharing = sweep.share_trunks and train.evaluations == 1
    for cell in cells:
        trunk = cell.run.trunk if sharing else ""
        groups.setdefault(f"trunk-{trunk}" if trunk else cell.id, []).append(cell)
    shared = [
        Bundle(name, _ordered(group), shares=True, stacked=_fits(sweep, group))
        for name, group in groups.items()
        if len(group) > 1
    ]
    alone = [group[0] for group in groups.values() if len(group) == 1]
    return shared + _stacks(sweep, alone)


def _stacks(sweep: SweepConfig, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells in stacks of `stack_size`, those of like length together."""
    programs: dict[RunSpec, list[Cell]] = {}
    for cell in cells:
        programs.setdefault(cell.run.program, []).append(cell)
    bundles = []
    for group in programs.values():
        ordered, size = _ordered(group), stack_size(sweep, group[0].run)
        for first in range(0, len(ordered), size):
            members = ordered[first : first + size]
            if len(members) == 1:
                bundles.append(Bundle(members[0].id, members))
            else:
                name = f"stack-{digest([cell.id for cell in members])}"
                bundles.append(Bundle(name, members, stacked=True))
    return bundles


def _fits(sweep: SweepConfig, group: Sequence[Cell]) -> bool:
    """Whether one stack has room for all."""
    return len(group) <= stack_size(sweep, group[0].run)


def stack_size(sweep: SweepConfig, run: RunSpec) -> int:
    """Cells of this program that are trained side by side: `sweep.stack`, if they fit.

    Not where the batch grows: its stages are branches, and a stack would compute them all.
    """
    if run.batch_doublings or sweep.stack == 1:
        return 1
    fitting = int(sweep.stack_gb * 2**30 / memory.estimate_bytes(run).total)
    return max(1, min(sweep.stack, fitting))


def _ordered(cells: Sequence[Cell]) -> tuple[Cell, ...]:
    return tuple(sorted(cells, key=lambda cell: (cell.run.steps, cell.id)))
