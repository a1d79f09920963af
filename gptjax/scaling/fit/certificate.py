"""The certificate of a fit: evidence that an optimum is one, and what it leaves open."""

import dataclasses
from typing import Any

import numpy as np

from gptjax.scaling.fit import engine
from gptjax.scaling.fit.bootstrap import Resamples
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.forms.form import Form

ILL_CONDITIONED = 1e5
AGREE = 1e-6


@dataclasses.dataclass(frozen=True)
class Certificate:
    """Evidence that the optimum is one.

    Attributes:
      objective: sum over runs, in the units of the loss kind.
      starts: how many starting points were run.
      share_at_best: share of them within 1e-6 (relative) of the best objective.
      gradient_norm: largest derivative of the objective by a fitted coordinate.
      bounds_hit: parameters that ran to a limit.
      condition_number: of the residuals' derivatives, each column at unit length.
      iterations: of the best start.
      converged: whether the best start met its tolerance.
    """

    objective: float
    starts: int
    share_at_best: float
    gradient_norm: float
    bounds_hit: tuple[str, ...]
    condition_number: float
    iterations: int
    converged: bool


def certify(
    problem: Problem, solution: Any, polished: Any, best: int, reached: float | None = None
) -> Certificate:
    """Evidence from all starts' `solution` and the best one's, polished.

    `reached` is the objective of the best start after polishing where fewer rows were searched.
    """
    objective = float(polished.objective[0])
    reached = objective if reached is None else reached
    # An exact fit has an objective of rounding errors only: compare above that floor.
    floor = 1e-20 * float(np.sum(problem.weights))
    near = solution.objective <= reached * (1 + AGREE) + floor
    low, high = problem.bounds
    theta = polished.theta[0]
    hit = [
        p.name
        for p, t, lo, hi in zip(problem.form.fitted, theta, low, high, strict=True)
        if t <= lo + 1e-6 or t >= hi - 1e-6
    ]
    return Certificate(
        objective=objective,
        starts=len(solution.objective),
        share_at_best=float(np.mean(near)),
        gradient_norm=float(np.max(np.abs(engine.gradient(problem, theta)))),
        bounds_hit=tuple(hit),
        condition_number=condition_number(problem, theta),
        iterations=int(solution.iterations[best]),
        converged=bool(solution.converged[best]),
    )


def condition_number(problem: Problem, theta: np.ndarray) -> float:
    """Of the residuals' derivatives with columns at unit length; infinite when singular."""
    matrix = engine.jacobian(problem, theta)[1] * np.sqrt(problem.weights)[:, None]
    norms = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0):
        return float("inf")
    sizes = np.linalg.svd(matrix / norms, compute_uv=False)
    return float(sizes[0] / sizes[-1]) if sizes[-1] > 0 else float("inf")


def one_sided(
    problem: Problem,
    certificate: Certificate,
    resamples: Resamples,
    runaways: list[tuple[str, str]],
) -> list[str]:
    """Sentences about parameters whose profile or interval runs to their limit."""
    doubts = []
    low, high = problem.bounds
    for i, parameter in enumerate(problem.form.fitted):
        if parameter.name in certificate.bounds_hit:
            continue
        values = resamples.theta[:, i]
        zero = "zero" if parameter.positive else "minus infinity"
        for ends, side, where in (
            (values >= high[i] - 1e-6, "above", "infinity"),
            (values <= low[i] + 1e-6, "below", zero),
        ):
            share = float(np.mean(ends)) if len(values) else 0.0
            open_end = (parameter.name, side) in runaways
            if not (open_end or share > 0.01):
                continue
            why = [f"with it at {where} they are fitted as well, within their scatter"] * open_end
            why += [f"{share:.0%} of the resamples run to {where}"] * (share > 0.01)
            doubts.append(
                f"{problem.form.name}: the runs do not bound {parameter.name} from {side}: "
                f"{'; '.join(why)}; hold it at a known value (fix, or fit.e_fixed for E) or add "
                "runs over a wider range"
            )
    return doubts


def unsettled(form: Form, certificate: Certificate) -> list[str]:
    """Sentences about what the fit could not settle."""
    doubts = []
    for name in certificate.bounds_hit:
        doubts.append(
            f"{form.name}: {name} ran to its limit, so these runs do not determine it; "
            "wider ranges of size and tokens would, or hold it with fix"
        )
    if not certificate.converged:
        doubts.append(f"{form.name}: the best start ran out of iterations; its numbers may move")
    if certificate.share_at_best < 0.5:
        doubts.append(
            f"{form.name}: only {certificate.share_at_best:.0%} of the starts reach the best "
            "objective; raise fit.starts and compare objectives before parameters"
        )
    if certificate.condition_number > ILL_CONDITIONED:
        doubts.append(
            f"{form.name}: some parameters can be traded for each other without changing the fit "
            f"(condition number {certificate.condition_number:.1e}); read predictions, not them"
        )
    return doubts
