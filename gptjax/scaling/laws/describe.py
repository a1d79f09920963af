"""Results as plain mappings: what `laws.json` holds of each law."""

import dataclasses
import functools
from typing import Any

import numpy as np

from gptjax.scaling.approaches.envelope import NOTE, Envelope
from gptjax.scaling.approaches.isoflop import IsoFlop, Valley
from gptjax.scaling.approaches.mixture import Mixture
from gptjax.scaling.fit import bootstrap, engine, optimum
from gptjax.scaling.fit.lines import PowerLine
from gptjax.scaling.fit.misfit import lack_of_fit, undetected
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.tables.runs import Runs, seed_noise

SAVED_DRAWS = 200  # resamples of a mixed form that laws.json keeps
SURFACE = (48, 64)  # sizes by budgets of the loss surface


@functools.singledispatch
def law(result: Any, table: Runs, flops: np.ndarray) -> dict[str, Any]:
    """The entry of one law; `flops` are the budgets of its lines."""
    raise TypeError(f"no description of {type(result).__name__}")


@law.register
def _(result: Fit, table: Runs, flops: np.ndarray) -> dict[str, Any]:
    form, proof, again = result.form, result.certificate, result.resamples
    entry = {
        "form": form.name,
        "equation": form.equation,
        "paper": form.paper,
        "units": form.units,
        "differs": form.differs,
        "params": {name: interval.to_json() for name, interval in result.params.items()},
        "covariance": {"names": [p.name for p in form.fitted], "matrix": result.covariance},
        "coordinates": {
            "theta": result.theta,
            "centres": result.problem.centres,
            "tied": form.tied,
            "freedom": again.tail_freedom,
            "noise": float(np.sqrt(np.mean(result.noise**2))),
        },
        "objective": proof.objective,
        "loss_kind": result.config.loss_kind,
        "delta": result.config.delta,
        "n_runs": len(result.runs),
        "certificate": {**vars(proof), "bounds_hit": list(proof.bounds_hit)},
        "resamples": {
            "kind": again.kind,
            "count": result.config.resamples,
            "failed": again.failed,
            "group_by": again.group_by,
            "groups": again.groups,
            "seed": again.seed,
        },
        "residuals": [
            {"cell": cell, "log_residual": residual}
            for cell, residual in zip(result.runs.cell, result.residuals, strict=True)
        ],
        "doubts": list(result.warnings),
    }
    if "chinchilla" in form.name:
        entry["lack_of_fit"] = misfit(result, float(flops.max()))
    if form.splits_compute:
        entry["optimum"] = {"flops": flops, **optimum_lines(result, flops)}
        entry["surface"] = surface(result, table, flops)
    return entry


def misfit(result: Fit, flops: float) -> dict[str, Any]:
    """The lack-of-fit tests of a fit, and what they would not find at a budget."""
    found = lack_of_fit(result)
    missed = {"flops": flops, "relative": undetected(result, flops)}
    return {"p": found.p, "found": found.found, **dataclasses.asdict(found), "undetected": missed}


def coordinates(result: Fit) -> dict[str, Any]:
    """What a prediction from the saved file needs of a fit."""
    form = result.form
    return {
        "form": form.name,
        "params": {name: value.to_json() for name, value in result.params.items()},
        "covariance": {"names": [p.name for p in form.fitted], "matrix": result.covariance},
        "coordinates": {
            "theta": result.theta,
            "centres": result.problem.centres,
            "tied": form.tied,
            "freedom": result.resamples.tail_freedom,
        },
    }


def mixture(found: Mixture) -> dict[str, Any]:
    """The `mixture` block: the forms with their weights, ready to predict from."""
    rows = [
        coordinates(fit)
        | {
            "draws": fit.resamples.theta[:SAVED_DRAWS],
            "weight": weight,
            "misfit": lack_of_fit(fit).found,
            "scatter": float(np.sqrt(np.mean(fit.residuals**2))),
        }
        for fit, weight in zip(found.fits, found.weights, strict=True)
    ]
    return {"forms": rows, "widening": found.widening}


@law.register
def _(result: IsoFlop, table: Runs, flops: np.ndarray) -> dict[str, Any]:
    place = _line_coordinates(result.params, result.tokens)
    if result.loss_law:
        values = {name: found.value for name, found in result.loss_law.items()}
        kept = {name: many[:SAVED_DRAWS] for name, many in result.loss_samples.items()}
        place["loss"] = {"values": values, "draws": kept}
    return {
        "params": _line_params(result.params, result.tokens),
        "coordinates": place,
        "valleys": [_valley(valley, table, result) for valley in result.valleys],
        "optimum": {"flops": flops, **optimum_lines(result, flops)},
        "n_runs": sum(int(valley.used.sum()) for valley in result.used),
        "degree": result.degree,
        "resamples": {
            "kind": "wild",
            "count": result.count,
            "failed": 0,
            "group_by": table.group_by,
            "seed": result.config.seed,
        },
        "loss_law": {n: i.to_json() for n, i in result.loss_law.items()}
        if result.loss_law
        else None,
        "equation": "N_opt = k C^a, D_opt = k' C^b through the minima of the valleys",
        "paper": "Hoffmann et al. 2022, arXiv:2203.15556, approach 2",
    }


@law.register
def _(result: Envelope, table: Runs, flops: np.ndarray) -> dict[str, Any]:
    points = result.points
    return {
        "params": _line_params(result.params, result.tokens),
        "coordinates": _line_coordinates(result.params, result.tokens),
        "points": [
            {name: column[i] for name, column in points.items()}
            for i in range(len(points["flops"]))
        ],
        "curve_points": {"flops": result.flops, "loss": result.loss},
        "optimum": {"flops": flops, **optimum_lines(result, flops)},
        "n_curves": result.curves,
        "resamples": {
            "kind": "runs",
            "count": result.count,
            "failed": 0,
            "group_by": table.group_by,
        },
        "note": NOTE,
        "equation": "N_opt = k C^a, D_opt = k' C^b through the winners of the envelope",
        "paper": "Hoffmann et al. 2022, arXiv:2203.15556, approach 1",
    }


def _line_params(params: PowerLine, tokens: PowerLine) -> dict[str, Any]:
    return {
        "a": params.interval("slope").to_json(),
        "b": tokens.interval("slope").to_json(),
        "log_k_params": params.interval("constant").to_json(),
        "log_k_tokens": tokens.interval("constant").to_json(),
    }


def _line_coordinates(params: PowerLine, tokens: PowerLine) -> dict[str, Any]:
    """What a prediction from the saved file needs: both lines with their covariance."""
    entry: dict[str, Any] = {"freedom": params.freedom}
    for name, line in (("params", params), ("tokens", tokens)):
        samples = np.stack([line.constants, line.slopes])
        samples = samples[:, np.all(np.isfinite(samples), axis=0)]
        matrix = np.cov(samples) if samples.shape[1] > 1 else np.zeros((2, 2))
        entry[name] = {"theta": [line.constant, line.slope], "matrix": matrix}
    return entry


@functools.singledispatch
def optimum_lines(result: Any, flops: np.ndarray) -> dict[str, Any]:
    """N_opt, D_opt and the loss at budgets, with bands: lists named as in `laws.json`."""
    raise TypeError(f"no optimum of {type(result).__name__}")


@optimum_lines.register
def _(result: Fit, flops: np.ndarray) -> dict[str, Any]:
    if not result.form.two_powers:
        found = [result.optimum(float(c)) for c in flops]
        return {
            f"{name}{end}": [getattr(getattr(o, name), which) for o in found]
            for name in ("params", "tokens", "loss")
            for end, which in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
    cost, lanes = result.cost, {n: v[:, None] for n, v in result.samples.items()}
    lines: dict[str, Any] = {}
    best = optimum.two_power_params(result.values, flops, cost)
    many = optimum.two_power_params(lanes, flops, cost)
    both = {
        "params": (best, many),
        "tokens": (cost.tokens(flops, best), cost.tokens(flops, many)),
    }
    both["loss"] = (
        engine.predict(result.form, result.values, {n: v[0] for n, v in both.items()}),
        engine.predict(result.form, lanes, {n: v[1] for n, v in both.items()}),
    )
    for name, (value, samples) in both.items():
        low, high = bootstrap.band(samples, result.config.confidence, result.resamples.tail_freedom)
        lines |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return lines


@optimum_lines.register
def _(result: IsoFlop, flops: np.ndarray) -> dict[str, Any]:
    return _power_lines(result.params, result.tokens, flops, result.loss_at(flops))


@optimum_lines.register
def _(result: Envelope, flops: np.ndarray) -> dict[str, Any]:
    return _power_lines(result.params, result.tokens, flops, None)


def _power_lines(params: PowerLine, tokens: PowerLine, flops: np.ndarray, loss: Any) -> dict:
    lines: dict[str, Any] = {}
    for name, line in (("params", params.at(flops)), ("tokens", tokens.at(flops)), ("loss", loss)):
        value, low, high = line or (None, None, None)
        lines |= {name: value, f"{name}_low": low, f"{name}_high": high}
    return lines


def surface(result: Fit, table: Runs, flops: np.ndarray) -> dict[str, Any]:
    """The law over sizes and budgets, for contours; tokens follow from the cost model."""
    budgets = np.geomspace(flops[0], flops[-1], SURFACE[1])
    span = table.params.max() / table.params.min()
    low, high = table.params.min() / span**0.25, table.params.max() * span**0.5
    params = np.geomspace(low, high, SURFACE[0])
    tokens = result.cost.tokens(budgets[None], params[:, None])
    inputs = {"params": params[:, None], "tokens": tokens, "flops": budgets[None]}
    loss = engine.predict(result.form, result.values, inputs)
    return {"params": params, "flops": budgets, "tokens": tokens, "loss": loss}


def _valley(valley: Valley, table: Runs, result: IsoFlop) -> dict[str, Any]:
    good = not valley.reason
    known = bool(np.all(np.isfinite(valley.coefficients)))
    points = [
        {
            "cell": table.cell[row],
            "params": table.params[row],
            "tokens": table.tokens[row],
            "flops": table.flops[row],
            "loss": table.loss[row],
            "used": bool(used),
            "reason": reason or None,
        }
        for row, used, reason in zip(valley.index, valley.used, valley.reasons, strict=True)
    ]
    return {
        "budget": valley.budget,
        "flops": valley.flops,
        "used": good,
        "reason": valley.reason or None,
        "points": points,
        "coefficients": valley.coefficients if known else None,
        "centre": valley.centre,
        "minimum": _minimum(valley, result) if good else None,
        "curve": _curve(valley, table) if good else None,
    }


def _minimum(valley: Valley, result: IsoFlop) -> dict[str, Any]:
    return {
        name: bootstrap.interval(
            getattr(valley, name),
            valley.samples[:, i],
            result.config.confidence,
            result.freedom,
        ).to_json()
        for i, name in enumerate(("params", "tokens", "loss"))
    }


def _curve(valley: Valley, table: Runs) -> dict[str, Any]:
    used = table.params[valley.index[valley.used]]
    params = np.geomspace(used.min() / 1.1, used.max() * 1.1, 50)
    u = np.log(params / valley.centre)
    logs = np.polynomial.polynomial.polyval(u, valley.coefficients)
    return {"params": params, "loss": np.exp(logs)}


def runs(table: Runs) -> list[dict[str, Any]]:
    """One entry a usable run, for points that a reader can hover over."""
    columns = (table.params, table.tokens, table.flops, table.budget, table.loss, table.stderr)
    names = ("cell", "params", "tokens", "flops", "budget", "loss", "loss_stderr", "used")
    rows = zip(table.cell.tolist(), *(column.tolist() for column in columns), strict=True)
    return [dict(zip(names, (*row, True), strict=True)) for row in rows]


def data(table: Runs) -> dict[str, Any]:
    """What the laws rest on."""
    spans = {
        f"{name}_range": [getattr(table, name).min(), getattr(table, name).max()]
        for name in ("flops", "params", "tokens", "loss")
    }
    return {
        "n_runs": len(table) + len(table.left_out),
        "n_used": len(table),
        "n_groups": table.groups,
        "group_by": table.group_by,
        "budgets": table.budgets,
        "seed_noise": seed_noise(table),
        **spans,
    }
