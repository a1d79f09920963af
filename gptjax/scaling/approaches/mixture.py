"""A mixture of law forms: one forecast from all that describe the runs, their spread inside it.

Which form is true is not known, and forms that fit the runs alike differ beyond them. Each is
weighted by the small-sample Akaike criterion (Burnham and Anderson 2002, section 2.9) of its
residuals, and the resamples of all make the interval. Structure that the forms leave in the
residuals widens it, as Birge's ratio (1932) does for measurements that disagree.
"""

import dataclasses
import functools
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit import bootstrap, engine, optimum
from gptjax.scaling.fit.fit import check_runs, fit_runs, resampled
from gptjax.scaling.fit.misfit import lack_of_fit
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.forms import form_named
from gptjax.scaling.forms.form import Form
from gptjax.scaling.tables.runs import Runs
from gptjax.threads import in_threads

FORMS = ("power_mean", "gadre", "kaplan_nd")
RICH = "farseer"  # tried where every other form leaves structure in the residuals
RICH_RUNS = 25
LEAST = 0.01  # forms of less weight are left away
TOLD = 0.05  # forms of so much weight are told apart at a budget
RESAMPLES = 200
CLIP = 4.0
ROUNDING = 1e-7  # residuals of a log loss that are those of digits, not of a form
QUANTITIES = ("params", "tokens", "loss")


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Fits of several forms to the same runs with their weights, the largest first."""

    fits: tuple[Fit, ...]
    weights: tuple[float, ...]

    def at(self, flops: float) -> dict[str, float]:
        """N*, D* and the loss at a budget with `_low` and `_high`, as in `laws.json`."""
        parts = [draws(law, flops) for law in self.fits]
        law = self.fits[0]
        freedom = min(one.resamples.tail_freedom for one in self.fits)
        return mixed(parts, self.weights, law.config.confidence, freedom, self.widening)

    def each_at(self, flops: float) -> list[dict[str, Any]]:
        """N*, D* and the loss at a budget by every form of at least 5 % of the weight.

        `apart` says that N* or the loss lies outside of the first form's own interval, which knows
        of noise alone.
        """
        own = self.fits[0].optimum(flops)
        rows: list[dict[str, Any]] = []
        for law, weight in zip(self.fits, self.weights, strict=True):
            if weight < TOLD:
                continue
            found = {name: value for name, (value, _) in draws(law, flops).items()}
            apart = [
                not getattr(own, name).low <= found[name] <= getattr(own, name).high
                for name in ("params", "loss")
            ]
            rows.append({"form": law.form.name, "weight": weight, **found, "apart": any(apart)})
        return rows

    @functools.cached_property
    def widening(self) -> float:
        """The mean of the forms' widenings for structure in their residuals."""
        each = [lack_of_fit(law).widening for law in self.fits]
        return float(np.average(each, weights=self.weights))


def mixed(
    parts: list[dict[str, tuple[float, np.ndarray]]],
    weights: Any,
    confidence: float,
    freedom: float,
    widening: float = 1.0,
) -> dict[str, float]:
    """Values and intervals of a mixture from (value, samples) of each form."""
    tail = bootstrap.expanded_tail(confidence, freedom, shrunk=False)
    entry: dict[str, float] = {}
    for name in QUANTITIES:
        good = [i for i, part in enumerate(parts) if np.isfinite(part[name][0])]
        if not good:
            entry |= dict.fromkeys((name, f"{name}_low", f"{name}_high"), float("nan"))
            continue
        share = np.array([weights[i] for i in good]) / sum(weights[i] for i in good)
        logs = [np.log(parts[i][name][0]) for i in good]
        entry[name] = float(np.exp(np.sum(share * logs)))
        samples = [np.asarray(parts[i][name][1]) for i in good]
        samples = [one[np.isfinite(one)] for one in samples]
        if min(len(one) for one in samples) < 20:
            entry |= {f"{name}_low": float("nan"), f"{name}_high": float("nan")}
            continue
        mass = np.concatenate(
            [np.full(len(s), w / len(s)) for s, w in zip(samples, share, strict=False)]
        )
        low, high = _quantiles(np.concatenate(samples), mass, (tail, 1 - tail))
        centre = entry[name]
        low, high = (centre * (end / centre) ** widening for end in (low, high))
        entry |= {f"{name}_low": low, f"{name}_high": high}
    return entry


def _quantiles(values: np.ndarray, mass: np.ndarray, levels: tuple[float, float]) -> list[float]:
    order = np.argsort(values)
    reached = np.cumsum(mass[order]) - mass[order] / 2
    return [float(np.interp(level, reached, values[order])) for level in levels]


def draws(law: Fit, flops: float) -> dict[str, tuple[float, np.ndarray]]:
    """(value, resampled values) of N*, D* and the loss."""
    both = []
    for values in (law.values, law.samples):
        params = optimum.best_params(law.form, values, flops, law.cost)
        tokens = law.cost.tokens(flops, params)
        inputs = {"params": params, "tokens": tokens, "flops": flops}
        both.append({**inputs, "loss": engine.predict(law.form, values, inputs)})
    return {n: (float(np.ravel(both[0][n])[0]), np.ravel(both[1][n])) for n in QUANTITIES}


def rivals(runs: Runs, config: FitConfig) -> list[Fit]:
    """The forms beside Chinchilla's, fitted without resamples; those that can be."""
    return _fitted(runs, FORMS, config)


def mix(runs: Runs, first: Fit, config: FitConfig, *, beside: list[Fit] | None = None) -> Mixture:
    """`first` and its rivals (`beside`, where they are fitted already), weighted.

    A form that cannot be fitted, or has no optimum at ten times the data, is left away.
    """
    fits = [first, *(rivals(runs, config) if beside is None else beside)]
    if len(runs) >= RICH_RUNS and all(lack_of_fit(law).found for law in fits):
        fits += _fitted(runs, (RICH,), config)
    fits = [law for law in fits if np.isfinite(draws(law, 10 * runs.flops.max())["loss"][0])]
    if not fits:
        return Mixture((first,), (1.0,))
    weights = akaike_weights(fits)
    order = [i for i in np.argsort(-weights) if weights[i] >= LEAST]
    total = float(sum(weights[i] for i in order))
    few = min(config.resamples, RESAMPLES)  # of forms that weigh something alone
    kept = in_threads([functools.partial(_with_interval, fits[i], first, few) for i in order])
    return Mixture(tuple(kept), tuple(float(weights[i]) / total for i in order))


def _with_interval(law: Fit, first: Fit, resamples: int) -> Fit:
    """The law with resamples, which the first has already."""
    return law if law is first else resampled(law, resamples)


def _fitted(runs: Runs, names: tuple[str, ...], config: FitConfig) -> list[Fit]:
    config = dataclasses.replace(config, resamples=0)
    forms = [form_named(name) for name in names]
    if config.e_fixed is not None:
        forms = [form.fix(E=config.e_fixed) for form in forms if "E" in form.names]
    calls = [functools.partial(_quick, runs, form, config) for form in forms]
    return [law for law in in_threads(calls) if not isinstance(law, UserError)]


def _quick(runs: Runs, form: Form, config: FitConfig) -> Fit:
    check_runs(runs, form)
    return fit_runs(runs, form, config, quick=True)


def akaike_weights(fits: list[Fit]) -> np.ndarray:
    """exp(-AICc / 2) of each form, to sum 1; residuals are clipped at four robust deviations.

    The small-sample term counts for as much as the rest at most, which it reaches below some 14
    runs: of nine runs it would leave out every form of five parameters, however well it fits.
    Where the form is exact to the last digits, the deviation is that of rounding: every other form
    is off by more, and forms that are all exact are told apart by their number of parameters.
    """
    best = min((law.residuals for law in fits), key=lambda r: float(np.median(np.abs(r))))
    most = max(CLIP * 1.4826 * float(np.median(np.abs(best))), CLIP * ROUNDING)
    scores = []
    for law in fits:
        n, k = len(law.residuals), len(law.theta) + 1
        square = float(np.mean(np.clip(law.residuals, -most, most) ** 2))
        charge = 2 * k + min(2 * k * (k + 1) / max(n - k - 1, 1), 2 * k)
        scores.append(n * np.log(max(square, ROUNDING**2)) + charge)
    score = np.array(scores) - min(scores)
    weights = np.exp(-score / 2)
    return weights / weights.sum()
