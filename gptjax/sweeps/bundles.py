"""Bundles: cells that a worker takes together, because they begin with the same updates.

Runs of one trunk (`RunSpec.trunk`) agree bit for bit until the learning rate of the shorter one
begins to fall. A bundle trains that beginning once and forks a copy off for each cell, so sharing
changes what a sweep costs and not one bit of its records.
"""

import dataclasses
from collections.abc import Sequence

from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.plan import Cell
from gptjax.train import TrainConfig


@dataclasses.dataclass(frozen=True)
class Bundle:
    """Cells that one worker trains one after another, the shortest first.

    Attributes:
      name: what is claimed.
      cells: at least one; with more, all have one trunk.
    """

    name: str
    cells: tuple[Cell, ...]

    @property
    def shares(self) -> bool:
        """Whether there is a trunk to fork from."""
        return len(self.cells) > 1

    @property
    def total_flops(self) -> float:
        """Exact training FLOPs of the whole bundle."""
        return sum(self.flops)

    @property
    def updates(self) -> tuple[int, ...]:
        """Updates that each cell adds to what is trained already."""
        forks = [cell.run.shared_steps if self.shares else 0 for cell in self.cells]
        starts = [0, *forks[:-1]]
        return tuple(
            cell.run.steps - start for cell, start in zip(self.cells, starts, strict=True)
        )

    @property
    def flops(self) -> tuple[float, ...]:
        """Exact training FLOPs of these updates."""
        return tuple(
            cell.flops * updates / cell.run.steps
            for cell, updates in zip(self.cells, self.updates, strict=True)
        )


def make_bundles(sweep: SweepConfig, train: TrainConfig, cells: Sequence[Cell]) -> list[Bundle]:
    """The cells by trunk; a cell without one, or with evaluations on its way, is alone."""
    groups: dict[str, list[Cell]] = {}
    sharing = sweep.share_trunks and train.evaluations == 1
    for cell in cells:
        trunk = cell.run.trunk if sharing else ""
        groups.setdefault(f"trunk-{trunk}" if trunk else cell.id, []).append(cell)
    bundles = []
    for name, members in groups.items():
        ordered = tuple(sorted(members, key=lambda cell: (cell.run.steps, cell.id)))
        bundles.append(Bundle(name, ordered))
    return bundles
