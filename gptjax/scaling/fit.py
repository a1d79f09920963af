"""Fit a law to a table of runs, with what a reviewer asks for: a certificate and intervals."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax import fields
from gptjax.errors import UserError
from gptjax.scaling import bootstrap, engine, optimum, profile
from gptjax.scaling.bootstrap import Interval, Resamples
from gptjax.scaling.config import FitConfig
from gptjax.scaling.engine import Problem
from gptjax.scaling.forms import Form
from gptjax.scaling.optimum import Cost
from gptjax.scaling.registry import form_named
from gptjax.scaling.runs import LeftOut, Runs, prepare, require
from gptjax.scaling.starts import starting_points

SAME_RATIO = 0.99995  # correlation of log N and log D above which they are one variable
ILL_CONDITIONED = 1e5
AGREE = 1e-6
QUICK_STARTS = 16
FARTHEST = 1e24  # no size, count or rate of a run is larger; FLOPs have a limit of their own


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


@dataclasses.dataclass(frozen=True)
class Optimum:
    """The best use of a budget, each number with its interval."""

    flops: float
    params: Interval
    tokens: Interval
    loss: Interval
    tokens_per_param: Interval


@dataclasses.dataclass(frozen=True)
class Fit:
    """A fitted law.

    Attributes:
      form: the law.
      runs: the runs that it was fitted to.
      problem, theta: the optimization and its optimum, in fitted coordinates.
      certificate: evidence of convergence.
      resamples: refits for intervals.
      cost: FLOPs as a function of params and tokens.
      warnings: sentences about what the data cannot tell.
      config: the settings used.
    """

    form: Form
    runs: Runs
    problem: Problem
    theta: np.ndarray
    certificate: Certificate
    resamples: Resamples
    cost: Cost
    warnings: tuple[str, ...]
    config: FitConfig

    @property
    def left_out(self) -> tuple[LeftOut, ...]:
        """Runs of the table that were not used, with the reason."""
        return self.runs.left_out

    @functools.cached_property
    def values(self) -> dict[str, float]:
        """The parameters by name."""
        values = engine.values_of(self.form, self.theta, self.problem.centres, np)
        return {name: float(value) for name, value in values.items()}

    @functools.cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """The parameters of every resample, (R,) each."""
        values = engine.values_of(self.form, self.resamples.theta, self.problem.centres, np)
        count = len(self.resamples)
        return {name: np.broadcast_to(np.asarray(v), (count,)) for name, v in values.items()}

    @functools.cached_property
    def params(self) -> dict[str, Interval]:
        """The parameters with intervals; a and b, the exponents of C, where they have a form."""
        values, samples = dict(self.values), dict(self.samples)
        if self.form.two_powers:
            values["a"], values["b"] = optimum.two_power_exponents(values, self.cost)
            samples["a"], samples["b"] = optimum.two_power_exponents(samples, self.cost)
        return {name: self.interval(values[name], samples[name]) for name in values}

    @functools.cached_property
    def residuals(self) -> np.ndarray:
        """Observed minus predicted, of the log loss (or of the loss, for the raw kinds)."""
        return -engine.jacobian(self.problem, self.theta)[0]

    @functools.cached_property
    def noise(self) -> np.ndarray:
        """Residuals inflated for the parameters that were fitted: draws of a new run's noise."""
        return bootstrap.adjusted_residuals(self.problem, self.theta)

    @functools.cached_property
    def covariance(self) -> np.ndarray:
        """Of the fitted coordinates (logs of positive parameters): resampled, else linearised."""
        if len(self.resamples) >= 100:
            return np.atleast_2d(np.cov(self.resamples.theta.T))
        residual, matrix = engine.jacobian(self.problem, self.theta)
        freedom = max(len(residual) - len(self.theta), 1)
        scale = min(np.sum(residual**2) / freedom, (1.4826 * np.median(np.abs(residual))) ** 2 * 4)
        return scale * np.linalg.pinv(matrix.T @ (matrix * self.problem.weights[:, None]))

    def interval(self, value: Any, samples: np.ndarray) -> Interval:
        """The interval of any number computed from resampled parameters."""
        freedom = self.resamples.tail_freedom
        return bootstrap.interval(float(value), samples, self.config.confidence, freedom)

    def predict(
        self, params: Any = None, tokens: Any = None, *, noise: bool = True, **columns: Any
    ) -> tuple[Any, Any, Any]:
        """The loss of a new run with its interval.

        Args:
          params, tokens: sizes; scalars or arrays that broadcast.
          noise: include a run's own scatter; False gives the interval of the law's mean.
          **columns: whatever else the form reads (`flops` follows from the cost model).

        Returns:
          (value, low, high), each shaped like the broadcast inputs.
        """
        inputs = self._inputs(params, tokens, columns)
        shape = np.broadcast_shapes(*(np.shape(v) for v in inputs.values()))
        flat = {n: np.broadcast_to(v, shape).reshape(-1).astype(float) for n, v in inputs.items()}
        value = np.broadcast_to(
            engine.predict(self.form, self.values, flat), (int(np.prod(shape)),)
        )
        samples = self._predict_samples(flat)
        if noise:
            samples = self._add_noise(samples)
        low, high = bootstrap.band(samples, self.config.confidence, self.resamples.tail_freedom)
        low, high = (np.broadcast_to(end, value.shape) for end in (low, high))
        return tuple(float(v[0]) if shape == () else v.reshape(shape) for v in (value, low, high))  # type: ignore[return-value]

    def optimum(
        self, flops: float, *, tokens_of: Callable[[Any, Any], Any] | None = None, **columns: Any
    ) -> Optimum:
        """Compute-optimal size, tokens and loss at a budget, with intervals.

        Args:
          flops: the budget.
          tokens_of: (flops, params) -> tokens under another count than the runs' cost model, for
            example an exact one; the minimum is then found numerically.
          **columns: whatever else the form reads, held at one value.

        Raises:
          UserError: when the form does not depend on both params and tokens.
        """
        if not (np.isfinite(flops) and flops > 0):
            raise UserError(f"flops={flops} is not a budget; give a positive number")
        form, cost = self.form, self.cost
        best = optimum.best_params(form, self.values, flops, cost, columns, tokens_of)
        many = optimum.best_params(form, self.samples, flops, cost, columns, tokens_of)
        tokens_of = tokens_of or cost.tokens
        tokens, many_tokens = tokens_of(flops, best), tokens_of(flops, many)
        inputs = {"params": many, "tokens": many_tokens, "flops": flops, **columns}
        losses = np.asarray(engine.predict(form, self.samples, inputs))
        value = engine.predict(form, self.values, {**inputs, "params": best, "tokens": tokens})
        return Optimum(
            flops=float(flops),
            params=self.interval(best[0], many),
            tokens=self.interval(tokens[0], many_tokens),
            loss=self.interval(np.ravel(value)[0], losses),
            tokens_per_param=self.interval(tokens[0] / best[0], many_tokens / many),
        )

    def profile(self, name: str, points: int = profile.POINTS) -> "profile.Profile":
        """How well the runs can be fitted with a parameter held elsewhere."""
        return profile.profile(self, name, points)

    def summary(self) -> str:
        """A few lines for a terminal."""
        lines = [f"{self.form.name}: {self.form.equation}   ({len(self.runs)} runs)"]
        lines += [f"  {name:8s} {value}" for name, value in self.params.items()]
        proof = self.certificate
        lines.append(
            f"  objective {proof.objective:.7g}, {proof.share_at_best:.0%} of {proof.starts} "
            f"starts agree, gradient {proof.gradient_norm:.1e}"
        )
        return "\n".join(lines + [f"  ! {warning}" for warning in self.warnings])

    def _inputs(self, params: Any, tokens: Any, columns: dict[str, Any]) -> dict[str, Any]:
        inputs = {n: np.asarray(v, np.float64) for n, v in columns.items()}
        given = {"params": params, "tokens": tokens}
        inputs |= {n: np.asarray(v, np.float64) for n, v in given.items() if v is not None}
        if "flops" not in inputs and {"params", "tokens"} <= set(inputs):
            inputs["flops"] = self.cost.flops(inputs["params"], inputs["tokens"])
        for name in self.form.columns:
            if name not in inputs:
                raise UserError(f"{self.form.name} needs {name} to predict; pass {name}=…")
            least = -np.inf if name in self.form.loose else 0.0
            if not np.all(np.isfinite(inputs[name]) & (inputs[name] > least)):
                raise UserError(f"{name}={inputs[name]} must be above zero and finite")
        return inputs

    def _predict_samples(self, flat: dict[str, np.ndarray]) -> np.ndarray:
        """Predictions of every resample, (R, points)."""
        points = max(len(v) for v in flat.values())
        lanes = {name: value[:, None] for name, value in self.samples.items()}
        result = engine.predict(self.form, lanes, flat)
        return np.broadcast_to(result, (len(self.resamples), points))

    def _add_noise(self, samples: np.ndarray) -> np.ndarray:
        rng = np.random.default_rng([self.config.seed, 2])
        draws = rng.choice(self.noise, size=samples.shape) if len(samples) else 0.0
        return samples * np.exp(draws) if self.problem.logarithmic else samples + draws


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
    count = min(config.starts, QUICK_STARTS) if quick else config.starts
    starts = starting_points(problem, count, config.seed)
    solution = engine.solve(problem, starts)
    if not np.any(np.isfinite(solution.objective)):
        raise UserError(f"{form.name} could not be evaluated at any start; check the table's units")
    best = int(np.nanargmin(solution.objective))
    theta = solution.theta[best]
    if not quick:
        near = engine.solve(problem, around(theta, config), widen=1.0)
        theta = near.theta[int(np.nanargmin(near.objective))]
    polished = engine.solve(problem, theta[None], widen=1.0, tolerance=0.0)
    theta = polished.theta[0]
    certificate = certify(problem, solution, polished, best)
    resamples = bootstrap.resample(
        problem, theta, runs.group, count=config.resamples, seed=config.seed, group_by=runs.group_by
    )
    runaways = [] if quick else profile.unbounded(problem, theta, config.confidence)
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
            *_doubts(form, certificate),
            *_one_sided(problem, certificate, resamples, runaways),
        ),
        config=config,
    )


def around(theta: np.ndarray, config: FitConfig) -> np.ndarray:
    """Starts for a search near `theta` at the target delta, `theta` itself first, (M, p).

    Shrinking delta leads all starts down one path; where the objective has several minima at the
    end of it (seen with Muennighoff's form), the path may miss the lowest.
    """
    rng = np.random.default_rng([config.seed, 6])
    lanes = engine.CHUNK
    widths = np.geomspace(0.01, 1.0, lanes)[:, None]
    starts = theta + widths * rng.standard_normal((lanes, len(theta)))
    starts[0] = theta
    return starts


def certify(problem: Problem, solution: Any, polished: Any, best: int) -> Certificate:
    """Evidence from all starts' `solution` and the best one's, polished."""
    objective = float(polished.objective[0])
    # An exact fit has an objective of rounding errors only: compare above that floor.
    floor = 1e-20 * float(np.sum(problem.weights))
    near = solution.objective <= objective * (1 + AGREE) + floor
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


def _one_sided(
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


def condition_number(problem: Problem, theta: np.ndarray) -> float:
    """Of the residuals' derivatives with columns at unit length; infinite when singular."""
    matrix = engine.jacobian(problem, theta)[1] * np.sqrt(problem.weights)[:, None]
    norms = np.linalg.norm(matrix, axis=0)
    if not np.all(np.isfinite(norms)) or np.any(norms == 0):
        return float("inf")
    sizes = np.linalg.svd(matrix / norms, compute_uv=False)
    return float(sizes[0] / sizes[-1]) if sizes[-1] > 0 else float("inf")


def _doubts(form: Form, certificate: Certificate) -> list[str]:
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
