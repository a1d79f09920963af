"""Tuning before a sweep: the best learning rate of its smallest sizes, continued to the others.

At each of a few small sizes the rule's learning rate is tried times each factor of a grid. The loss
makes a parabola in the logarithm of the factor; only a minimum inside the grid counts. A power law
of the parameters through these minima corrects the rule for all sizes. Batch size and β₂ are chosen
from a few values, each judged at its own best learning rates.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.scaling.fit.bootstrap import t_quantile
from gptjax.sweeps import shapes
from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.plan import Cell, check_seeds, make_run, sized
from gptjax.sweeps.profiles import expected_optimum
from gptjax.train import TrainConfig

ROUNDS = 4
"""A grid whose best value lies at an edge is widened at most so often, less one."""

MANY_FOR_SLOPE = 3


@dataclasses.dataclass(frozen=True)
class Trial:
    """One run of the tuning.

    Attributes:
      params: size (non-embedding + head).
      batch: factor of the rule's batch size.
      b2: decay of the second moment.
      factor: of the rule's learning rate.
    """

    cell: Cell
    params: int
    batch: float
    b2: float
    factor: float


@dataclasses.dataclass(frozen=True)
class Tuned:
    """The result of a tuning.

    Attributes:
      batch, b2: the chosen variant.
      factor: of the rule's learning rate at `params`, with its 95 % interval.
      exponent: of the parameters, with its interval; NaN with fewer than three sizes.
      params: geometric mean of the sizes.
      uses_exponent: whether the exponent's interval leaves out zero, so that it is used.
      best: for each variant and size the best factor, its loss and why there is none.
    """

    batch: float
    b2: float
    factor: tuple[float, float, float]
    exponent: tuple[float, float, float]
    params: float
    uses_exponent: bool
    best: tuple[dict[str, Any], ...]

    def applied(self, sweep: SweepConfig, optim: OptimConfig) -> tuple[SweepConfig, OptimConfig]:
        """The sections with what was found in the place of the wish to tune."""
        tuned = dataclasses.replace(
            sweep,
            tune=False,
            batch_scale=sweep.batch_scale * self.batch,
            learning_rate_scale=float(f"{sweep.learning_rate_scale * self.factor[0]:.4g}"),
            learning_rate_exponent=float(f"{self.exponent[0]:.4g}") if self.uses_exponent else 0.0,
            learning_rate_params=float(f"{self.params:.6g}"),
        )
        return tuned, dataclasses.replace(optim, b2=self.b2)

    @property
    def sentence(self) -> str:
        """The result in words."""
        value, low, high = self.factor
        known = "" if math.isnan(low) else f" [{low:.3g}, {high:.3g}]"
        words = (
            f"the best learning rate is {value:.3g}{known} times the rule's at "
            f"{self.params:.3g} parameters"
        )
        if math.isnan(self.exponent[0]):
            return words + "; too few sizes to see how that changes with size"
        exponent, low, high = self.exponent
        used = "used" if self.uses_exponent else "not used: its interval holds 0"
        return words + f", times N^{exponent:.2g} [{low:.2g}, {high:.2g}] ({used})"


def make_trials(
    sweep: SweepConfig,
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    corpus: str,
    **of_data: Any,
) -> list[Trial]:
    """Every factor at each of the smallest sizes, at the budget that suits the size best.

    Args:
      of_data: fields of a run that say how it reads its corpus.

    Raises:
      UserError: for a plan with fewer sizes than are to be tuned, or a grid too coarse to see a
        parabola on.
    """
    _check_grid(sweep.tune_factors)
    check_seeds("sweep.seeds", sweep.seeds)
    chosen = _chosen(sweep, model, optim.cost)
    trials = []
    for batch in sweep.tune_batches:
        for b2 in sweep.tune_b2 or (optim.b2,):
            for budget, shape, tokens in chosen:
                for factor in sweep.tune_factors:
                    changed = dataclasses.replace(
                        sweep,
                        batch_scale=sweep.batch_scale * batch,
                        learning_rate_scale=sweep.learning_rate_scale * factor,
                    )
                    run = make_run(
                        changed,
                        shape,
                        dataclasses.replace(optim, b2=b2),
                        train,
                        tokens,
                        sweep.seeds[0],
                        **of_data,
                    )
                    cell = Cell(run=run, corpus=corpus, budget=budget)
                    trials.append(Trial(cell, shapes.size_of(shape), batch, b2, factor))
    return trials


def _check_grid(factors: Sequence[float]) -> None:
    """A widened grid is one factor after another, so single values are let through."""
    steps = np.diff(np.log(factors))
    if len(factors) > 2 and (len(factors) < 4 or np.ptp(steps) > 0.02 or not 0 < steps[0] < 1):
        raise UserError(
            f"sweep.tune_factors={tuple(factors)} shows no parabola; give at least four values "
            "that grow by one ratio below 2.7, for example (0.25,0.5,1,2,4)"
        )


def _chosen(
    sweep: SweepConfig, model: ModelConfig, cost: float
) -> list[tuple[float, ModelConfig, float]]:
    """(budget, shape, tokens) of the smallest sizes, each where it is nearest to the optimum.

    In a grid, which has no budgets, each at the middle one of its token counts.
    """
    by_size: dict[int, list[tuple[float, ModelConfig, float]]] = {}
    for planned in sized(sweep, model, cost):
        by_size.setdefault(shapes.size_of(planned[1]), []).append(planned)
    if len(by_size) < sweep.tune_sizes:
        raise UserError(
            f"sweep.tune_sizes={sweep.tune_sizes} is more than the {len(by_size)} sizes of the "
            "plan; lower it or plan more sizes"
        )

    def nearest(size: int) -> tuple[float, ModelConfig, float]:
        cells = sorted(by_size[size], key=lambda cell: cell[2])
        if cells[0][0] == 0.0:
            return cells[len(cells) // 2]
        return min(cells, key=lambda cell: abs(math.log(expected_optimum(sweep, cell[0]) / size)))

    return [nearest(size) for size in sorted(by_size)[: sweep.tune_sizes]]


def wider(trials: Sequence[Trial], losses: Mapping[str, float | None]) -> tuple[float, ...]:
    """Factors to try next: one beyond an edge of the grid at which some size does best.

    Args:
      losses: by the cell's identity; None where the run failed. Beyond a failed run lies nothing.
    """
    grid = sorted({trial.factor for trial in trials})
    ratio = grid[1] / grid[0]
    wanted = set()
    for group in _groups(trials):
        finished = [trial for trial in group if losses[trial.cell.id] is not None]
        if not finished:
            continue
        best = min(finished, key=lambda trial: losses[trial.cell.id] or 0.0)
        if best.factor == grid[0]:
            wanted.add(grid[0] / ratio)
        if best.factor == grid[-1]:
            wanted.add(grid[-1] * ratio)
    return tuple(sorted(wanted))


def find(trials: Sequence[Trial], losses: Mapping[str, float | None]) -> Tuned:
    """The best variant and the law of its best learning rates.

    Raises:
      UserError: when no size has its best learning rate inside the grid.
    """
    best = [_best(group, losses) for group in _groups(trials)]
    variants = sorted({(row["batch"], row["b2"]) for row in best})
    rows = {
        variant: {r["params"]: r for r in best if (r["batch"], r["b2"]) == variant and not r["why"]}
        for variant in variants
    }
    judged = {variant: found for variant, found in rows.items() if found}
    if not judged:
        raise UserError(
            f"no size has its best learning rate inside the grid ({best[0]['why']}); widen "
            f"sweep.tune_factors={tuple(sorted({trial.factor for trial in trials}))}"
        )
    most = max(len(found) for found in judged.values())
    whole = {variant: found for variant, found in judged.items() if len(found) == most}
    chosen = min(whole, key=lambda v: np.mean([row["loss"] for row in whole[v].values()]))
    found = list(whole[chosen].values())
    factor, exponent, params = _law(
        np.array([row["params"] for row in found], float),
        np.array([row["factor"] for row in found]),
    )
    uses = not math.isnan(exponent[0]) and exponent[1] * exponent[2] > 0.0
    return Tuned(chosen[0], chosen[1], factor, exponent, params, uses, tuple(best))


def _groups(trials: Sequence[Trial]) -> list[list[Trial]]:
    """The trials of one variant and size."""
    groups: dict[tuple[float, float, int], list[Trial]] = {}
    for trial in trials:
        groups.setdefault((trial.batch, trial.b2, trial.params), []).append(trial)
    return list(groups.values())


def _best(group: Sequence[Trial], losses: Mapping[str, float | None]) -> dict[str, Any]:
    first = group[0]
    done = [(t.factor, loss) for t in group if (loss := losses[t.cell.id]) is not None]
    row: dict[str, Any] = {
        "params": first.params,
        "tokens": first.cell.run.tokens,
        "batch": first.batch,
        "b2": first.b2,
        "factor": math.nan,
        "loss": math.nan,
        "why": "every run failed",
        "rule": first.cell.run.optim.learning_rate / first.factor,
    }
    if not done:
        return row
    factors, values = zip(*done, strict=True)
    table = {
        "params": [float(first.params)] * len(done),
        "tokens": [float(first.cell.run.tokens)] * len(done),
        "factor": list(factors),
        "loss": list(values),
    }
    found = scaling.best_settings(table, "factor")[0]
    return row | {"factor": found.value, "loss": found.loss, "why": found.reason}


def _law(
    params: np.ndarray, factors: np.ndarray
) -> tuple[tuple[float, float, float], tuple[float, float, float], float]:
    """(factor at the mean size, exponent, that size), each with a 95 % interval by Student's t."""
    centre = float(np.exp(np.mean(np.log(params))))
    x, y = np.log(params / centre), np.log(factors)
    none = (math.nan, math.nan, math.nan)
    count, slope = len(y), none
    residual = y - y.mean()
    freedom = count - 1
    if count >= MANY_FOR_SLOPE:
        value = float(x @ y / (x @ x))
        residual, freedom = residual - value * x, count - 2
        half = t_quantile(0.975, freedom) * math.sqrt(residual @ residual / freedom / (x @ x))
        slope = (value, value - half, value + half)
    if freedom < 1:
        return (float(factors[0]), math.nan, math.nan), none, centre
    half = t_quantile(0.975, freedom) * math.sqrt(residual @ residual / freedom / count)
    middle = y.mean()
    low, value, high = (float(np.exp(middle + sign * half)) for sign in (-1, 0, 1))
    return (value, low, high), slope, centre
