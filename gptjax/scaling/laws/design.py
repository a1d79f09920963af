"""Suggested next runs: the cells that shrink the uncertainty at a target most per FLOP.

V-optimal design (Atkinson, Donev and Tobias 2007, chapter 10) of the linearised law. With residual
derivatives j a run of noise s adds j j' / s^2 to the information M; the variance of a prediction
with gradient g is g' M^-1 g. Runs are bought greedily by reduction per FLOP, then exchanged while
that lowers the variance. The law is trusted inside the given ratios of tokens to parameters only:
a form that is slightly wrong should not send the money to its corners.
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gptjax.errors import UserError, nearest
from gptjax.scaling.config import QUANTITIES
from gptjax.scaling.fit import bootstrap, coordinates, engine, optimum
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.fit.optimum import Cost
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms.form import Form

RATIOS = (2.0, 200.0)  # tokens per parameter of the candidates
# Powers of FLOPs by which a gain is divided: pure thrift fills the list with cheap runs.
THRIFT = (0.0, 0.3, 0.5, 0.7, 0.85, 1.0)
REPEATS = 3  # seeds of one cell: the linear theory would buy dozens
PRIOR = 30.0  # standard deviation of a cold start's coordinates: nearly nothing is known


@dataclasses.dataclass(frozen=True)
class Plan:
    """Cells to run, and what they are expected to do for the target.

    `sd_before`, `sd_after` are standard deviations of the log loss, or of ln N_opt, at the target.
    """

    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray
    target_flops: float
    quantity: str
    allowance: float
    sd_before: float
    sd_after: float

    def cells(self) -> list[dict[str, float]]:
        """One entry for each distinct cell, with how often to run it (other seeds)."""
        rows: dict[tuple[float, ...], int] = {}
        for cell in zip(
            self.flops.tolist(), self.params.tolist(), self.tokens.tolist(), strict=True
        ):
            rows[cell] = rows.get(cell, 0) + 1
        return [
            {"params": params, "tokens": tokens, "flops": flops, "repeats": count}
            for (flops, params, tokens), count in sorted(rows.items())
        ]


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Runs that may be bought: a grid of sizes by budgets."""

    params: np.ndarray
    tokens: np.ndarray
    flops: np.ndarray


def candidate_grid(
    cost: Cost,
    low: float,
    high: float,
    *,
    ratios: tuple[float, float] = RATIOS,
    budgets: int = 16,
    sizes: int = 12,
) -> Candidates:
    """Sizes at each budget whose tokens per parameter lie within `ratios`.

    Args:
      cost: the cost model.
      low, high: cheapest and dearest single run, FLOPs.
    """
    flops, ratio = np.meshgrid(np.geomspace(low, high, budgets), np.geomspace(*ratios, sizes))
    # kappa N^slope D with D = ratio N
    params = (flops / (cost.kappa * ratio)) ** (1 / (1 + cost.slope))
    return Candidates(params.ravel(), (params * ratio).ravel(), flops.ravel())


def run_next(
    law: Fit,
    target_flops: float,
    allowance: float,
    *,
    quantity: str = "loss",
    dearest: float = 0.0,
    ratios: tuple[float, float] = RATIOS,
    most: int = 64,
) -> Plan:
    """The cells to add to a fit's runs.

    Args:
      law: the fit so far; its runs stay.
      target_flops: the budget whose prediction matters.
      allowance: FLOPs to spend.
      quantity: 'loss' (of the optimum) or 'log_params' (ln N_opt).
      dearest: dearest single run; 0 means the allowance, or 4 times the largest run so far.
      ratios: tokens per parameter allowed.
      most: largest number of runs.

    Raises:
      UserError: for a quantity that is not known, a law without an optimum, or no candidate.
    """
    scale = max(float(np.sqrt(np.mean(law.noise**2))), 1e-6)
    matrix = engine.jacobian(law.problem, law.theta)[1]
    information = matrix.T @ (matrix * law.problem.weights[:, None]) / scale**2
    low = float(law.runs.flops.min())
    dearest = dearest or min(allowance, 4 * float(law.runs.flops.max()))
    candidates = candidate_grid(law.cost, min(low, dearest), dearest, ratios=ratios)
    return _plan(
        law.form,
        law.theta,
        law.problem.centres,
        law.cost,
        information,
        scale,
        candidates,
        target_flops,
        allowance,
        quantity,
        most,
    )


def first_plan(
    form: Form,
    guess: dict[str, float],
    cost: Cost,
    target_flops: float,
    allowance: float,
    *,
    noise: float = 0.005,
    cheapest: float = 0.0,
    dearest: float = 0.0,
    quantity: str = "loss",
    ratios: tuple[float, float] = RATIOS,
    most: int = 64,
) -> Plan:
    """The best first plan for a total allowance, from a guess of the law (a cold start).

    Args:
      form, guess: the law and rough values; a broad prior around them stands for what is unknown.
      noise: expected relative scatter of a run.
      cheapest, dearest: limits of a single run; default allowance/1000 and allowance/5.
    """
    dearest = dearest or allowance / 5
    candidates = candidate_grid(cost, cheapest or allowance / 1000, dearest, ratios=ratios)
    centres = {
        column: float(np.mean(np.log(getattr(candidates, column)))) for column in form.centred
    }
    theta = coordinates.theta_of(form, guess, centres)
    information = np.eye(len(theta)) / PRIOR**2
    return _plan(
        form,
        theta,
        centres,
        cost,
        information,
        noise,
        candidates,
        target_flops,
        allowance,
        quantity,
        most,
    )


def _plan(
    form: Form,
    theta: np.ndarray,
    centres: dict[str, float],
    cost: Cost,
    information: np.ndarray,
    noise: float,
    candidates: Candidates,
    target_flops: float,
    allowance: float,
    quantity: str,
    most: int,
) -> Plan:
    if quantity not in QUANTITIES:
        raise UserError(f"quantity={quantity!r} is not known; {nearest(quantity, QUANTITIES)}")
    affordable = candidates.flops <= allowance * (1 + 1e-9)
    if not (math.isfinite(allowance) and affordable.any()):
        raise UserError(f"allowance={allowance:g} FLOPs pays for no run; give more")
    gradient = _target_gradient(form, theta, centres, cost, target_flops, quantity)
    rows = _rows(form, theta, centres, candidates) / noise
    money = candidates.flops
    plans = []
    for thrift in THRIFT:
        chosen = _greedy(information, rows, money, gradient, allowance, most, thrift)
        chosen = _exchange(information, rows, money, gradient, allowance, chosen)
        plans.append((_variance(information + rows[chosen].T @ rows[chosen], gradient), chosen))
    chosen = min(plans, key=lambda plan: plan[0])[1]
    before = _variance(information, gradient)
    after = _variance(information + rows[chosen].T @ rows[chosen], gradient)
    return Plan(
        candidates.params[chosen],
        candidates.tokens[chosen],
        candidates.flops[chosen],
        float(target_flops),
        quantity,
        float(allowance),
        math.sqrt(before),
        math.sqrt(after),
    )


def _rows(form: Form, theta: np.ndarray, centres: dict[str, float], at: Candidates) -> np.ndarray:
    """Derivatives of the log loss at the candidates, (n, p)."""
    columns = {"params": at.params, "tokens": at.tokens, "flops": at.flops}
    problem = Problem(form, columns, np.ones(len(at.flops)), np.ones(len(at.flops)))
    problem.__dict__["centres"] = centres  # the law's own, not the candidates'
    return engine.jacobian(problem, theta)[1]


def _target_gradient(
    form: Form,
    theta: np.ndarray,
    centres: dict[str, float],
    cost: Cost,
    flops: float,
    quantity: str,
) -> np.ndarray:
    """Derivative of ln L_opt or ln N_opt at the target by the coordinates, (p,)."""
    step = 1e-4
    shifts = np.concatenate([np.eye(len(theta)), -np.eye(len(theta))]) * step
    values = coordinates.values_of(form, theta + shifts, centres)
    values = {name: np.broadcast_to(value, len(shifts)) for name, value in values.items()}
    params = optimum.best_params(form, values, flops, cost)
    result = np.log(params)
    if quantity == "loss":
        columns = {"params": params, "tokens": cost.tokens(flops, params), "flops": flops}
        result = np.log(engine.predict(form, values, columns))
    forward, backward = np.split(result, 2)
    return (forward - backward) / (2 * step)


def _variance(information: np.ndarray, gradient: np.ndarray) -> float:
    scale = 1 / np.sqrt(np.maximum(np.diag(information), 1e-300))
    inner = information * scale[:, None] * scale
    inner = inner + 1e-12 * np.eye(len(gradient))
    value = float((gradient * scale) @ np.linalg.solve(inner, gradient * scale))
    return max(value, 0.0)


def _greedy(
    information: np.ndarray,
    rows: np.ndarray,
    flops: np.ndarray,
    gradient: np.ndarray,
    allowance: float,
    most: int,
    thrift: float,
) -> list[int]:
    """Indices bought one at a time by variance reduction per FLOP^thrift, repeats allowed."""
    covariance = np.linalg.pinv(information, hermitian=True, rcond=1e-14)
    chosen: list[int] = []
    left = allowance
    while len(chosen) < most:
        spread = rows @ covariance
        gain = (spread @ gradient) ** 2 / (1 + np.sum(spread * rows, axis=1))
        open_to = (flops <= left * (1 + 1e-9)) & _fewer(chosen, len(flops))
        gain = np.where(open_to, gain / flops**thrift, -np.inf)
        best = int(np.argmax(gain))
        if not np.isfinite(gain[best]):
            break
        chosen.append(best)
        left -= flops[best]
        row = spread[best]
        covariance = covariance - np.outer(row, row) / (1 + row @ rows[best])
    return chosen


def _fewer(chosen: list[int], count: int) -> np.ndarray:
    """Which candidates were bought fewer than REPEATS times."""
    return np.bincount(np.array(chosen, int), minlength=count) < REPEATS


def _exchange(
    information: np.ndarray,
    rows: np.ndarray,
    flops: np.ndarray,
    gradient: np.ndarray,
    allowance: float,
    chosen: list[int],
    rounds: int = 3,
) -> list[int]:
    """Swap bought cells for others (or for one dearer cell) while the variance falls."""
    chosen = list(chosen)
    for _ in range(rounds):
        changed = False
        for place in range(len(chosen)):
            rest = chosen[:place] + chosen[place + 1 :]
            left = allowance - flops[rest].sum()
            base = information + rows[rest].T @ rows[rest]
            covariance = np.linalg.pinv(base, hermitian=True, rcond=1e-14)
            spread = rows @ covariance
            gain = (spread @ gradient) ** 2 / (1 + np.sum(spread * rows, axis=1))
            open_to = (flops <= left * (1 + 1e-9)) & _fewer(rest, len(flops))
            gain = np.where(open_to, gain, -np.inf)
            best = int(np.argmax(gain))
            if best != chosen[place] and gain[best] > gain[chosen[place]] * (1 + 1e-9):
                chosen[place], changed = best, True
        if not changed:
            break
    return chosen


def describe_plan(law: Fit, plan: Plan) -> dict[str, Any]:
    """The `run_next` block of laws.json: cells, and the interval before and after."""
    best = law.optimum(plan.target_flops)
    value = best.loss.value if plan.quantity == "loss" else best.params.value
    reach = bootstrap.t_quantile(0.5 + law.config.confidence / 2, law.resamples.freedom)

    def around(sd: float) -> dict[str, float]:
        return {
            "value": value,
            "low": value * math.exp(-reach * sd),
            "high": value * math.exp(reach * sd),
        }

    return {
        "target_flops": plan.target_flops,
        "quantity": plan.quantity,
        "allowance_flops": plan.allowance,
        "spent_flops": float(plan.flops.sum()),
        "before": around(plan.sd_before),
        "after": around(plan.sd_after),
        "sd_before": plan.sd_before,
        "sd_after": plan.sd_after,
        "cells": plan.cells(),
    }
