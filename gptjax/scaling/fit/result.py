"""A fitted law: parameters, intervals, predictions and the compute-optimal split."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import bootstrap, coordinates, engine, optimum, profile
from gptjax.scaling.fit.bootstrap import Interval, Resamples
from gptjax.scaling.fit.certificate import Certificate
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.fit.optimum import Cost
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import LeftOut, Runs


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
        values = coordinates.values_of(self.form, self.theta, self.problem.centres)
        return {name: float(value) for name, value in values.items()}

    @functools.cached_property
    def samples(self) -> dict[str, np.ndarray]:
        """The parameters of every resample, (R,) each."""
        values = coordinates.values_of(self.form, self.resamples.theta, self.problem.centres)
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
        low, high = self._bands(flat, noise)
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

    def profile(self, name: str, points: int = profile.POINTS) -> profile.Profile:
        """How well the runs can be fitted with a parameter held elsewhere."""
        return profile.profile(
            self.problem,
            self.theta,
            name,
            covariance=self.covariance,
            confidence=self.config.confidence,
            freedom=self.resamples.freedom,
            points=points,
        )

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

    def _bands(self, flat: dict[str, np.ndarray], noise: bool) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the interval at every point, some points at a time."""
        step = max(1, engine.AT_ONCE // max(len(self.resamples), 1))
        points = max(len(column) for column in flat.values())
        ends = []
        for start in range(0, points, step):
            samples = self._predict_samples({n: v[start : start + step] for n, v in flat.items()})
            samples = self._add_noise(samples) if noise else samples
            freedom = self.resamples.tail_freedom
            ends.append(bootstrap.band(samples, self.config.confidence, freedom))
        low, high = (np.concatenate(end) for end in zip(*ends, strict=True))
        return low, high

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
