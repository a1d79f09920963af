"""Chinchilla's approach 1: the lower envelope of all training curves, and which size is on it.

Hoffmann et al. 2022, section 3.1. A point in the middle of a schedule has a higher loss than a run
that ends there, so the envelope leans towards what its schedules favour; read it beside the other
two approaches.
"""

import dataclasses
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.lines import PowerLine, power_line
from gptjax.scaling.tables.runs import Runs
from gptjax.scaling.tables.table import as_table

GRID = 240  # budgets at which the envelope is read
SMOOTHING = 0.08  # width of the smoothing kernel, in decades of FLOPs
SIZES = 3  # sizes that must reach a budget before one can win it
NOTE = "points inside a schedule count here; their loss is above that of a run that ends there"


@dataclasses.dataclass(frozen=True)
class Envelope:
    """The lower envelope (flops, loss) and the winning runs that the lines go through."""

    flops: np.ndarray
    loss: np.ndarray
    points: dict[str, np.ndarray]
    params: PowerLine
    tokens: PowerLine
    curves: int
    count: int


def fit_envelope(curves: Any, runs: Runs, config: FitConfig) -> Envelope:
    """Read the envelope of the curves of usable runs and fit the lines.

    Args:
      curves: columns cell, tokens, flops, loss; one row a point of a curve.
      runs: the runs, for the size of each cell.
      config: resamples, seed, confidence.

    Raises:
      UserError: when too few curves overlap.
    """
    names, flops, tokens, losses = _grid(curves, runs)
    index = {cell: i for i, cell in enumerate(runs.cell)}
    params = np.array([runs.params[index[name]] for name in names])
    group = np.array([runs.group[index[name]] for name in names])
    best, usable = _winners(losses, params, np.ones(len(names), bool))
    if usable.sum() < 5 or len(np.unique(params[best[usable]])) < 2:
        raise UserError(
            "the training curves overlap too little for an envelope: at least two inner sizes must "
            "win somewhere; train more sizes or longer"
        )
    columns = np.arange(len(flops))
    groups = np.unique(group, return_inverse=True)[1]
    rng = np.random.default_rng([config.seed, 4])
    many = np.full((2, config.resamples, len(flops)), np.nan)
    for r in range(config.resamples):
        present = np.bincount(
            rng.integers(0, groups.max() + 1, groups.max() + 1), minlength=groups.max() + 1
        )
        winner, good = _winners(losses, params, present[groups] > 0)
        many[0, r] = np.where(good, params[winner], np.nan)
        many[1, r] = np.where(good, tokens[winner, columns], np.nan)
    freedom = max(int(groups.max()) - 1, 1)
    values = (params[best], tokens[best, columns])
    lines = [
        power_line(flops[usable], values[i][usable], many[i][:, usable], config.confidence, freedom)
        for i in (0, 1)
    ]
    reached = np.isfinite(losses[best, columns])
    points = {
        "flops": flops[usable],
        "params": values[0][usable],
        "tokens": values[1][usable],
        "loss": losses[best, columns][usable],
        "cell": np.array(names)[best[usable]],
    }
    return Envelope(
        flops[reached],
        losses[best, columns][reached],
        points,
        lines[0],
        lines[1],
        len(names),
        config.resamples,
    )


def _grid(curves: Any, runs: Runs) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Curves of usable runs on a common grid: names, flops (F,), tokens and losses (curves, F)."""
    table = as_table(curves)
    cells = table.text(table.find("cell"))
    columns = {n: table.numbers(table.find(n)) for n in ("tokens", "flops", "loss")}
    good = np.all([np.isfinite(v) & (v > 0) for v in columns.values()], axis=0)
    known = set(runs.cell)
    names = [name for name in dict.fromkeys(cells) if name in known]
    rows_of: dict[str, list[int]] = {}
    for row in np.flatnonzero(good):
        rows_of.setdefault(cells[row], []).append(int(row))
    parts = {name: np.array(rows_of.get(name, []), int) for name in names}
    names = [name for name in names if len(parts[name]) >= 4]
    if len(names) < SIZES:
        raise UserError(f"an envelope needs curves of {SIZES} runs and the table has {len(names)}")
    low = min(columns["flops"][parts[name]].min() for name in names)
    high = max(columns["flops"][parts[name]].max() for name in names)
    flops = np.geomspace(low, high, GRID)
    tokens, losses = np.full((2, len(names), GRID), np.nan)
    for i, name in enumerate(names):
        rows = parts[name][np.argsort(columns["flops"][parts[name]])]
        x = np.log(columns["flops"][rows])
        inside = (np.log(flops) >= x[0]) & (np.log(flops) <= x[-1])
        losses[i] = np.where(inside, _smooth(x, columns["loss"][rows], np.log(flops)), np.inf)
        tokens[i] = np.exp(np.interp(np.log(flops), x, np.log(columns["tokens"][rows])))
    return names, flops, tokens, losses


def _smooth(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Local linear regression with a Gaussian kernel (a plain mean would lag on a slope)."""
    width = SMOOTHING * np.log(10)
    gap = x[None] - at[:, None]
    weight = np.exp(-0.5 * (gap / width) ** 2) + 1e-12
    total = weight.sum(1)
    m1, m2 = (weight * gap).sum(1) / total, (weight * gap**2).sum(1) / total
    y0, y1 = (weight * y).sum(1) / total, (weight * gap * y).sum(1) / total
    spread = np.maximum(m2 - m1**2, 1e-12)
    return y0 - m1 * (y1 - m1 * y0) / spread


def _winners(
    losses: np.ndarray, params: np.ndarray, present: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The lowest curve at each budget, and where it is a contest of inner sizes."""
    order = np.argsort(params, kind="stable")
    sizes, starts = np.unique(params[order], return_index=True)
    losses = np.where(present[:, None], losses, np.inf)
    best = np.argmin(losses, axis=0)
    reached = np.logical_or.reduceat(np.isfinite(losses)[order], starts, axis=0)  # (sizes, F)
    smallest = np.where(reached.any(0), sizes[np.argmax(reached, axis=0)], np.inf)
    largest = np.where(reached.any(0), sizes[::-1][np.argmax(reached[::-1], axis=0)], -np.inf)
    inner = (params[best] > smallest) & (params[best] < largest)
    return best, inner & (reached.sum(0) >= SIZES)
