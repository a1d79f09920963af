"""Fitting one law to a table of runs, with a certificate and intervals."""

import dataclasses
from typing import Any

import numpy as np

from gptjax import fields
from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import bootstrap, engine, optimum, profile
from gptjax.scaling.fit.certificate import Certificate, certify, one_sided, unsettled
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.fit.starts import starting_points
from gptjax.scaling.forms import form_named
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs, prepare, require

SAME_RATIO = 0.99995  # correlation of log N and log D above which they are one variable
QUICK_STARTS = 6  # of a diagnostic's refit: the best of as many draws as a full fit's starts
AGREEING = 3  # starts of such a refit that must end at one minimum
NEAR = 64  # starts of the search near the best point
SAMPLE = 1000  # rows of a large table by which its optimum is searched
SETTLED = 0.1  # standard deviation of a coordinate, mostly a logarithm, that is far from any limit
FEW_RESAMPLES = 100
NEARBY = 64.0  # how many times wider delta begins when all rows follow
FARTHEST = 1e24  # no size, count or rate of a run is larger; FLOPs have a limit of their own


def fit(
    table: Any, form: str | Form = "chinchilla", *, config: FitConfig | None = None, **options: Any
) -> Fit:
    """Fit one law to a table of runs.

    Args:
      table: a path (CSV or Parquet), a mapping of columns, a list of records, or prepared Runs.
      form: a name (see `scaling.FORMS`) or a Form of one's own.
      config: all settings; `options` override single ones, e.g. `resamples=4000`.

    Raises:
      UserError: when the table is wrong, or cannot identify the law.

    >>> import numpy as np
    >>> n, d = np.meshgrid(np.geomspace(1e6, 1e8, 6), np.geomspace(1e8, 1e10, 6))
    >>> n, d = n.ravel(), d.ravel()
    >>> loss = 1.7 + 400 * n**-0.34 + 1200 * d**-0.34
    >>> law = fit({"params": n, "tokens": d, "loss": loss}, resamples=0)
    >>> round(law.values["E"], 4), round(law.values["alpha"], 4)
    (1.7, 0.34)
    """
    config = fields.make(FitConfig, {**dataclasses.asdict(config or FitConfig()), **options}, "fit")
    law = form_named(form) if isinstance(form, str) else form
    runs = table if isinstance(table, Runs) else prepare(table, config, law.columns)
    if law.two_powers and config.e_fixed is not None:
        law = law.fix(E=config.e_fixed)
    if law.two_powers and config.tied_exponents:
        law = law.tie(beta="alpha")
    check_runs(runs, law)
    return fit_runs(runs, law, config)


def check_runs(runs: Runs, form: Form) -> None:
    """Refuse runs that cannot identify `form`; raises UserError with one sentence."""
    for column in form.columns:
        if column not in runs.columns:
            raise UserError(f"{form.name} reads the column {column}, which the table lacks")
        _check_column(runs, form, column)
    telling = tuple(column for column in form.columns if column not in form.loose)
    require(runs, form.name, len(form.fitted) + 1, telling)
    if {"params", "tokens"} <= set(form.columns):
        size, data = np.log(runs.params), np.log(runs.tokens)
        if abs(np.corrcoef(size, data)[0, 1]) > SAME_RATIO:
            low, high = np.min(runs.tokens / runs.params), np.max(runs.tokens / runs.params)
            raise UserError(
                f"tokens follow params in every run (tokens per parameter {low:.3g} to "
                f"{high:.3g}), so {form.name} cannot tell size from data; add runs at another ratio"
            )


def _check_column(runs: Runs, form: Form, column: str) -> None:
    """One sentence for the first value of a column that `form` cannot take."""
    for cell, value in zip(runs.cell, runs.columns[column], strict=True):
        if np.isnan(value):
            raise UserError(f"{column} of {cell} is missing; {form.name} needs it")
        if not abs(value) <= FARTHEST and column != "flops":
            raise UserError(f"{column}={value:g} of {cell} is beyond {FARTHEST:g}; check its unit")
        if value <= 0 and column not in form.loose:
            raise UserError(
                f"{column}={value:g} of {cell} must be above zero for {form.name}; remove the row "
                "or correct it"
            )


def problem_of(runs: Runs, form: Form, config: FitConfig) -> Problem:
    """The optimization of a form over runs, with the config's weights."""
    weights = np.ones(len(runs))
    if config.weights == "stderr":
        relative = runs.stderr / runs.loss
        if not np.all(np.isfinite(relative)):
            raise UserError("weights=stderr needs loss_stderr in every run; use weights=none")
        floor = max(float(np.median(relative)), 1e-6)
        weights = 1 / (relative**2 + floor**2)
        weights = weights / weights.mean()
    return Problem(form, runs.columns, runs.loss, weights, config.loss_kind, config.delta)


def fit_runs(runs: Runs, form: Form, config: FitConfig, *, quick: bool = False) -> Fit:
    """Fit prepared runs: starts, search nearby, polish, certificate, resamples.

    `quick` is for the many refits of a diagnostic: few starts and no search nearby.
    """
    problem = problem_of(runs, form, config)
    theta, certificate = _optimum(problem, config, quick=quick)
    return _with_resamples(problem, theta, certificate, runs, config, quick=quick)


def resampled(law: Fit, count: int) -> Fit:
    """A quick fit with `count` resamples in place of those that it has."""
    config = dataclasses.replace(law.config, resamples=count)
    return _with_resamples(law.problem, law.theta, law.certificate, law.runs, config, quick=True)


def _with_resamples(
    problem: Problem,
    theta: np.ndarray,
    certificate: Certificate,
    runs: Runs,
    config: FitConfig,
    *,
    quick: bool,
) -> Fit:
    """The law of an optimum, with the resamples that the config asks for."""
    form = problem.form
    resamples = bootstrap.resample(
        problem, theta, runs.group, count=config.resamples, seed=config.seed, group_by=runs.group_by
    )
    bounded = quick or _settled(problem, resamples)
    runaways = [] if bounded else profile.unbounded(problem, theta, config.confidence)
    return Fit(
        form=form,
        runs=runs,
        problem=problem,
        theta=theta,
        certificate=certificate,
        resamples=resamples,
        cost=optimum.cost_of(runs),
        warnings=(
            *runs.warnings,
            *unsettled(form, certificate),
            *one_sided(problem, certificate, resamples, runaways),
        ),
        config=config,
    )


def _settled(problem: Problem, resamples: bootstrap.Resamples) -> bool:
    """Whether a large table bounds every parameter so well that no profile is needed to see it."""
    if len(problem.loss) <= SAMPLE or len(resamples) < FEW_RESAMPLES:
        return False
    return bool(np.all(np.std(resamples.theta, axis=0) < SETTLED))


def _optimum(problem: Problem, config: FitConfig, *, quick: bool) -> tuple[np.ndarray, Certificate]:
    """The best coordinates and their certificate; large tables are searched by a sample of them."""
    few = _sample(problem, config.seed)
    count = min(config.starts, QUICK_STARTS) if quick else config.starts
    draws = config.starts if quick else 0
    starts = starting_points(few, count, config.seed, draws)
    solution = engine.solve(few, starts, enough=AGREEING if quick else 0)
    if not np.any(np.isfinite(solution.objective)):
        raise UserError(
            f"{problem.form.name} could not be evaluated at any start; check the table's units"
        )
    best = int(np.nanargmin(solution.objective))
    theta = solution.theta[best]
    if not quick:
        near = engine.solve(few, around(theta, config), widen=1.0)
        theta = near.theta[int(np.nanargmin(near.objective))]
    reached = engine.solve(few, theta[None], widen=1.0, tolerance=0.0)
    polished = reached
    if few is not problem:
        rough = engine.solve(problem, reached.theta, widen=NEARBY)
        polished = engine.solve(problem, rough.theta, widen=1.0, tolerance=0.0)
    return polished.theta[0], certify(problem, solution, polished, best, reached.objective[0])


def _sample(problem: Problem, seed: int) -> Problem:
    """The problem itself, or a thousand of its rows where there are more, about one centre."""
    rows = len(problem.loss)
    if rows <= SAMPLE:
        return problem
    keep = np.sort(np.random.default_rng([seed, 7]).choice(rows, SAMPLE, replace=False))
    columns = {name: column[keep] for name, column in problem.columns.items()}
    return problem.over(columns, problem.loss[keep], problem.weights[keep])


def around(theta: np.ndarray, config: FitConfig) -> np.ndarray:
    """Starts for a search near `theta` at the target delta, `theta` itself first, (M, p).

    Shrinking delta leads all starts down one path; where the objective has several minima at the
    end of it (seen with Muennighoff's form), the path may miss the lowest.
    """
    rng = np.random.default_rng([config.seed, 6])
    widths = np.geomspace(0.01, 1.0, NEAR)[:, None]
    starts = theta + widths * rng.standard_normal((NEAR, len(theta)))
    starts[0] = theta
    return starts
