"""The compute-optimal split: how large and on how many tokens, for a budget."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.fit import engine
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs


@dataclasses.dataclass(frozen=True)
class Cost:
    """Training FLOPs as kappa N^slope D: 6 N D exactly, or the power law that the runs follow.

    Small models spend a share on attention and the head that shrinks with size, so the exact
    count over N is not 6; `spread` is the largest relative error of the power law on the runs.
    """

    kappa: float = 6.0
    slope: float = 1.0
    spread: float = 0.0

    def tokens(self, flops: Any, params: Any) -> Any:
        """Tokens that `flops` pays for at size `params`."""
        return flops / (self.kappa * params**self.slope)

    def flops(self, params: Any, tokens: Any) -> Any:
        return self.kappa * params**self.slope * tokens


def cost_of(runs: Runs) -> Cost:
    """The cost model of a table: least squares of log(C / D) on log N."""
    per_token = np.log(runs.flops / runs.tokens)
    size = np.log(runs.params)
    if np.ptp(size) < 1e-6:
        return Cost(float(np.exp(np.mean(per_token - size))), 1.0, 0.0)
    slope, constant = np.polyfit(size, per_token, 1)
    spread = np.max(np.abs(np.expm1(per_token - slope * size - constant)))
    if abs(slope - 1) < 1e-9:
        slope = 1.0
    return Cost(float(np.exp(constant)), float(slope), float(spread))


def two_power_exponents(values: Any, cost: Cost) -> tuple[Any, Any]:
    """Exponents of C in N_opt and D_opt for A N^-alpha + B D^-beta."""
    a = values["beta"] / (values["alpha"] + cost.slope * values["beta"])
    return a, 1 - cost.slope * a


def two_power_params(values: Any, flops: Any, cost: Cost) -> Any:
    """Closed form: N_opt = [alpha A / (s beta B)]^(1/q) (C/kappa)^(beta/q), q = alpha + s beta.

    With the cost kappa N^s D; s = 1, kappa = 6 is Hoffmann et al. 2022, equation 4. Works in
    logarithms, so that no budget overflows.
    """
    alpha, beta, slope = values["alpha"], values["beta"], cost.slope
    ratio = np.log(alpha) + np.log(values["A"]) - np.log(slope * beta) - np.log(values["B"])
    log_params = (ratio + beta * np.log(flops / cost.kappa)) / (alpha + slope * beta)
    return np.exp(log_params)


def minimise(
    loss_of: Callable[[np.ndarray], np.ndarray], low: float, high: float, points: int = 256
) -> np.ndarray:
    """Sizes with the lowest loss between `low` and `high`: a log grid, refined three times.

    Args:
      loss_of: sizes (points,) or (R, points) -> losses (R, points).
      low, high: the range searched.

    Returns:
      (R,) sizes; NaN where the minimum is at the end of the range.
    """
    left, right = np.log(low), np.log(high)
    lanes = len(np.atleast_2d(loss_of(np.exp(np.linspace(left, right, 4)))))
    centre = np.full(lanes, 0.5 * (left + right))
    half = np.full(lanes, 0.5 * (right - left))
    unit = np.linspace(-1.0, 1.0, points)
    inside = np.ones(lanes, bool)
    for i in range(4):
        grid = centre[:, None] + half[:, None] * unit
        losses = np.atleast_2d(loss_of(np.exp(grid)))
        losses = np.where(np.isfinite(losses), losses, np.inf)
        best = np.argmin(losses, axis=1)
        if i == 0:
            inside = (best > 0) & (best < points - 1)
        centre = grid[np.arange(lanes), best]
        half = half * 4 / points
    return np.where(inside, np.exp(centre), np.nan)


def best_params(
    form: Form,
    values: Any,
    flops: float,
    cost: Cost,
    columns: dict[str, Any] | None = None,
    tokens_of: Callable[[Any, Any], Any] | None = None,
) -> np.ndarray:
    """N_opt of any form, for scalars or (R,) values.

    Args:
      form, values: the law; each value a scalar or (R,).
      flops: the budget.
      cost: the cost model.
      columns: further columns that the form reads, held at one value.
      tokens_of: (flops, params) -> tokens under an exact count, in place of the cost model.
    """
    if form.two_powers and tokens_of is None:
        return np.atleast_1d(two_power_params(values, flops, cost))
    if not (form.of_loss and {"params", "tokens"} <= set(form.columns)):
        raise UserError(f"{form.name} is no loss of both params and tokens: it has no optimum")
    tokens_of = tokens_of or cost.tokens
    lanes = {name: np.atleast_1d(value)[:, None] for name, value in values.items()}
    extra = dict(columns or {})

    def loss_of(params):
        inputs = {"params": params, "tokens": tokens_of(flops, params), "flops": flops, **extra}
        return engine.predict(form, lanes, inputs)

    size = (flops / cost.kappa) ** (1 / (1 + cost.slope))  # as many parameters as tokens
    return minimise(loss_of, size * 1e-6, size * 1e4)


def inference_optimum(
    values: Any, target_loss: float, inference_tokens: float, *, cost: Cost | None = None
) -> dict[str, float]:
    """The cheapest model that reaches a loss, its lifetime of answers included.

    Minimises kappa N^s D + 2 N D_inference subject to E + A N^-alpha + B D^-beta = target_loss
    (Sardana et al. 2023, arXiv:2401.00448, equation 3).

    Args:
      values: E, A, B, alpha, beta by name.
      target_loss: nats per token.
      inference_tokens: tokens that the model will ever process after training.

    Raises:
      UserError: for a loss at or below E, or a negative number of tokens.

    >>> law = {"E": 1.7, "A": 400.0, "B": 1200.0, "alpha": 0.34, "beta": 0.36}
    >>> none = inference_optimum(law, 2.2, 0.0)
    >>> many = inference_optimum(law, 2.2, 1e13)
    >>> many["params"] < none["params"] and many["tokens"] > none["tokens"]
    True
    """
    cost = cost or Cost()
    room = target_loss - values["E"]
    if not room > 0:
        raise UserError(
            f"target_loss={target_loss} is not above the irreducible {values['E']:.4g}; raise it"
        )
    if not (np.isfinite(inference_tokens) and inference_tokens >= 0):
        raise UserError(f"inference_tokens={inference_tokens} is not a number of tokens")
    smallest = (values["A"] / room) ** (1 / values["alpha"])  # with endless data

    def tokens_of(params: Any) -> Any:
        rest = np.maximum(room - values["A"] * params ** -values["alpha"], 1e-300)
        return (values["B"] / rest) ** (1 / values["beta"])

    def total(params: Any) -> np.ndarray:
        return cost.flops(params, tokens_of(params)) + 2 * params * inference_tokens

    params = float(
        minimise(lambda p: np.atleast_2d(total(p)), smallest * 1.0001, smallest * 1e6)[0]
    )
    tokens = float(tokens_of(params))
    return {
        "params": params,
        "tokens": tokens,
        "training_flops": float(cost.flops(params, tokens)),
        "inference_flops": 2 * params * inference_tokens,
        "tokens_per_param": tokens / params,
    }
