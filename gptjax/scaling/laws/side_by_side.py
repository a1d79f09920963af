"""Several laws beside one another: which reaches the lower loss at equal FLOPs, and by how much.

A law's frontier L*(C) is its loss at the best size for C. Three numbers compare two frontiers: the
difference of the losses at a budget; the compute multiplier, how many times as many FLOPs the
reference needs for the same loss; and the difference of the slopes −d ln L*/d ln C. Their intervals
come from the resamples of both laws, which are independent: other runs made them.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.fit import bootstrap, engine, optimum
from gptjax.scaling.fit.bootstrap import Interval
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.tables.runs import Runs

FARTHEST_MULTIPLIER = 100.0
"""A multiplier is searched between this and its inverse, and stays there if it lies beyond."""

POINTS = 200  # budgets at which a reference's frontier is tabulated to look a loss up in it
BEYOND = 30.0  # how far outside the sizes of its runs a law's best size is believed
STEP = 1.02  # ratio of the budgets between which a slope is measured


@dataclasses.dataclass(frozen=True)
class Standing:
    """One law at one budget, beside the reference.

    Attributes:
      flops: the budget.
      loss: of its frontier, nats per token.
      difference: that loss minus the reference's.
      multiplier: the reference's FLOPs for the same loss over `flops`; above 1 the law is better.
      slope: −d ln L*/d ln C.
      slope_difference: that slope minus the reference's.
    """

    label: str
    flops: float
    loss: Interval
    difference: Interval
    multiplier: Interval
    slope: Interval
    slope_difference: Interval


def side_by_side(laws: Mapping[str, Fit], flops: Sequence[float]) -> list[Standing]:
    """Every law at every budget; the first of `laws` is the reference.

    Raises:
      UserError: for a law that has no optimum at a budget, and for resamples of different levels.
    """
    reference, *_ = laws
    if len({law.config.confidence for law in laws.values()}) > 1:
        raise UserError("laws with intervals of different levels; fit all with one fit.confidence")
    found = []
    for budget in flops:
        theirs = _Frontier(laws[reference], budget)
        for label, law in laws.items():
            own = theirs if label == reference else _Frontier(law, budget)
            found.append(_standing(label, own, theirs, same=label == reference))
    return found


def frontier(law: Fit, flops: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(value, low, high) of L*(C) at budgets, for lines and bands."""
    value = _losses(law, law.values, flops)[0]
    many = _losses(law, law.samples, flops)
    low, high = bootstrap.band(many, law.config.confidence, law.resamples.tail_freedom)
    return value, low, high


def best_of_budgets(runs: Runs) -> list[dict[str, Any]]:
    """The size with the lowest mean loss of each budget: its mean, its seeds' losses, its size."""
    rows = []
    for budget in runs.budgets:
        here = runs.budget == budget
        sizes = np.unique(runs.params[here])
        losses = [runs.loss[here & (runs.params == size)] for size in sizes]
        best = int(np.argmin([loss.mean() for loss in losses]))
        rows.append(
            {
                "budget": float(budget),
                "params": float(sizes[best]),
                "loss": float(losses[best].mean()),
                "losses": losses[best].tolist(),
            }
        )
    return rows


class _Frontier:
    """L* of a law and of its resamples around one budget."""

    def __init__(self, law: Fit, flops: float):
        self.law, self.flops = law, flops
        near = np.array([flops / STEP, flops, flops * STEP])
        both = [_losses(law, values, near) for values in (law.values, law.samples)]
        self.value, self.samples = both[0][0, 1], both[1][:, 1]
        self.slope, self.slopes = (
            -np.log(losses[:, 2] / losses[:, 0]) / (2 * np.log(STEP)) for losses in both
        )

    def multiplier(self, losses: np.ndarray, values: Any) -> np.ndarray:
        """FLOPs at which the law with `values` reaches `losses`, over the budget, (R,)."""
        ratios = np.geomspace(1 / FARTHEST_MULTIPLIER, FARTHEST_MULTIPLIER, POINTS)
        table = _losses(self.law, values, self.flops * ratios)  # falls from left to right
        logs = np.log(ratios)
        found = [np.interp(-loss, -row, logs) for loss, row in zip(losses, table, strict=True)]
        return np.exp(np.array(found))


def _standing(label: str, own: _Frontier, theirs: _Frontier, *, same: bool) -> Standing:
    count = min(len(own.samples), len(theirs.samples))
    freedom = min(f.law.resamples.tail_freedom for f in (own, theirs))
    confidence = own.law.config.confidence

    def interval(value: Any, samples: np.ndarray) -> Interval:
        if same:
            return Interval(float(value), float(value), float(value), 0.0)
        return bootstrap.interval(float(value), samples, confidence, freedom)

    # The reference's resamples in another order, so that no two tables share a draw.
    order = np.random.default_rng(own.law.config.seed).permutation(count)
    values = {name: sample[:count][order] for name, sample in theirs.law.samples.items()}
    their_samples, their_slopes = theirs.samples[:count][order], theirs.slopes[:count][order]
    multipliers = theirs.multiplier(own.samples[:count], values)
    multiplier = theirs.multiplier(np.array([own.value]), theirs.law.values)[0]
    return Standing(
        label=label,
        flops=float(own.flops),
        loss=own.law.interval(own.value, own.samples),
        difference=interval(own.value - theirs.value, own.samples[:count] - their_samples),
        multiplier=interval(1.0 if same else multiplier, multipliers),
        slope=own.law.interval(own.slope[0], own.slopes),
        slope_difference=interval(
            own.slope[0] - theirs.slope[0], own.slopes[:count] - their_slopes
        ),
    )


def _losses(law: Fit, values: Mapping[str, Any], flops: np.ndarray) -> np.ndarray:
    """L*(C) of each resample, (R, budgets); one row for scalar values.

    A resample whose exponents ran away has its best size at 0 or infinity: sizes stay near those
    of the runs, where the loss of such a law is as good as any other's.
    """
    columns = []
    low, high = law.runs.params.min() / BEYOND, law.runs.params.max() * BEYOND
    lanes = {name: np.atleast_1d(value) for name, value in values.items()}
    for budget in flops:
        with np.errstate(over="ignore"):
            params = optimum.best_params(law.form, lanes, float(budget), law.cost)
        params = np.clip(params, low, high)
        inputs = {"params": params, "tokens": law.cost.tokens(budget, params), "flops": budget}
        columns.append(np.broadcast_to(engine.predict(law.form, lanes, inputs), params.shape))
    return np.stack(columns, axis=1)
