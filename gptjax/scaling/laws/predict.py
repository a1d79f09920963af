"""Predictions from a saved law: the content of `laws.json`, without the runs."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.approaches.mixture import mixed
from gptjax.scaling.fit import bootstrap, coordinates, engine, optimum
from gptjax.scaling.fit.optimum import Cost
from gptjax.scaling.forms import form_named, load
from gptjax.scaling.forms.form import Form
from gptjax.scaling.forms.frontier import FRONTIER
from gptjax.scaling.laws import verdict
from gptjax.scaling.laws.saved import Laws

DRAWS = 4000


def predict_saved(
    saved: Laws | Mapping[str, Any], flops: float, law: str = "", *, seed: int = 0
) -> list[dict[str, Any]]:
    """The compute-optimal size, tokens and loss at a budget, by each saved law.

    Intervals come from a normal approximation in the fitted coordinates (logs of the positive
    parameters) with the saved covariance.

    Args:
      saved: the content of `laws.json`.
      flops: the budget.
      law: one law's key; all that have an optimum when empty.

    Raises:
      UserError: for a budget that is not positive, an unknown law, or a file without laws.
    """
    if not (np.isfinite(flops) and flops > 0):
        raise UserError(f"flops={flops} is not a budget; give a positive number")
    saved = Laws.of(saved)
    load(saved.settings.get("form_files") or ())
    rng = np.random.default_rng([seed, 5])
    entries = []
    sentence = verdict.beyond(saved, float(flops))
    largest = (saved.data.get("flops_range") or [np.nan])[-1]
    place = {"flops": float(flops), "beyond": float(flops) / largest, "sentence": sentence}
    if saved.mixture and not law:
        entries.append({"law": "mixture", **place, **_mixture(saved, float(flops), rng)})
    for name in saved.chosen(law):
        try:
            with np.errstate(all="ignore"):  # what overflows is an infinite end of an interval
                entry = _predict(saved.laws[name], saved, float(flops), rng)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError):
            raise UserError(f"laws.{name} is incomplete; write the file again with a fit") from None
        if entry:
            entries.append({"law": name, **place, **entry})
    return entries


def _mixture(saved: Laws, flops: float, rng: np.random.Generator) -> dict[str, Any]:
    """The mixture of the saved forms."""
    mixture = saved.mixture or {}
    forms, widening = mixture["forms"], mixture.get("widening", 1.0)
    with np.errstate(all="ignore"):
        parts = [_form_draws(row, saved, flops, rng) for row in forms]
    weights = [row["weight"] for row in forms]
    freedom = min(row["coordinates"]["freedom"] for row in forms)
    entry = mixed(parts, weights, saved.settings["confidence"], freedom, widening)
    return entry | {"tokens_per_param": entry["tokens"] / entry["params"]}


def _predict(entry: Any, saved: Laws, flops: float, rng: np.random.Generator) -> dict[str, Any]:
    confidence = saved.settings["confidence"]
    freedom = entry["coordinates"]["freedom"]
    if "form" not in entry:
        draws = _line_draws(entry, flops, rng)
    else:
        draws = _form_draws(entry, saved, flops, rng)
    result: dict[str, Any] = {}
    for name, (value, samples) in draws.items():
        ends = bootstrap.interval(float(value), samples, confidence, freedom)
        result |= {name: float(value), f"{name}_low": ends.low, f"{name}_high": ends.high}
    if "params" in result:
        result["tokens_per_param"] = result["tokens"] / result["params"]
    return result


def _line_draws(entry: Any, flops: float, rng: np.random.Generator) -> dict[str, Any]:
    """N and D from the lines of an envelope or of IsoFLOP valleys, and the loss of valleys."""
    draws = {}
    for name in ("params", "tokens"):
        line = entry["coordinates"][name]
        mean, covariance = np.array(line["theta"]), np.array(line["matrix"])
        many = rng.multivariate_normal(mean, covariance, DRAWS, check_valid="ignore")
        design = np.array([1.0, np.log(flops)])
        draws[name] = (np.exp(mean @ design), np.exp(many @ design))
    if loss := entry["coordinates"].get("loss"):  # the law of the valleys' own minima
        sides = loss["values"], {name: np.array(many) for name, many in loss["draws"].items()}
        value, many = (engine.predict(FRONTIER, side, {"flops": flops}) for side in sides)
        draws["loss"] = (float(value), many)
    return draws


def _form_draws(entry: Any, saved: Laws, flops: float, rng: np.random.Generator) -> dict[str, Any]:
    """(value, draws) of N*, D* and the loss at a budget; empty without an optimum."""
    form, values, lanes = _drawn_law(entry, rng)
    if not form.splits_compute:
        return {}
    cost = saved.conventions["cost"]
    cost = Cost(cost["kappa"], cost["slope"])
    result = {}
    both = []
    for law in (values, lanes):
        params = optimum.best_params(form, law, flops, cost)
        tokens = cost.tokens(flops, params)
        loss = engine.predict(form, law, {"params": params, "tokens": tokens, "flops": flops})
        both.append({"params": params, "tokens": tokens, "loss": loss})
    for name in both[0]:
        result[name] = (np.ravel(both[0][name])[0], both[1][name])
    return result


def _drawn_law(entry: Any, rng: np.random.Generator) -> tuple[Form, Any, Any]:
    """A saved form with its parameters, and with draws of them, (R,) each."""
    form = form_named(entry["form"])
    names = entry["covariance"]["names"]
    held = {n: p["value"] for n, p in entry["params"].items() if n in form.names}
    held = {n: v for n, v in held.items() if n not in names}
    form = form.fix(**{n: v for n, v in held.items() if n not in entry["coordinates"]["tied"]})
    form = form.tie(**entry["coordinates"]["tied"])
    theta, centres = np.array(entry["coordinates"]["theta"]), entry["coordinates"]["centres"]
    covariance = np.array(entry["covariance"]["matrix"])
    many = np.array(entry.get("draws") or [])
    if not len(many):
        many = rng.multivariate_normal(theta, covariance, DRAWS, check_valid="ignore")
    values = coordinates.values_of(form, theta[None], centres)
    lanes = {
        n: np.broadcast_to(v, len(many))
        for n, v in coordinates.values_of(form, many, centres).items()
    }
    return form, values, lanes


def predict_loss(
    saved: Laws | Mapping[str, Any], params: float, tokens: float, *, seed: int = 0
) -> list[dict[str, Any]]:
    """The loss of a model of `params` on `tokens` by each saved form of size and data.

    The interval is that of the law's mean, without a run's own scatter.

    Raises:
      UserError: for a size or token count that is not positive, or a file without such a law.
    """
    for name, value in (("params", params), ("tokens", tokens)):
        if not (np.isfinite(value) and value > 0):
            raise UserError(f"{name}={value} is no count; give a positive number")
    saved = Laws.of(saved)
    load(saved.settings.get("form_files") or ())
    rng = np.random.default_rng([seed, 5])
    confidence = saved.settings["confidence"]
    cost = saved.conventions["cost"]
    flops = Cost(cost["kappa"], cost["slope"]).flops(params, tokens)
    inputs = {"params": params, "tokens": tokens, "flops": flops}
    entries = []
    for name in saved.chosen():
        entry = saved.laws[name]
        if "form" not in entry:
            continue
        with np.errstate(all="ignore"):
            form, values, lanes = _drawn_law(entry, rng)
            if not form.splits_compute:
                continue
            value = float(np.ravel(engine.predict(form, values, inputs))[0])
            draws = np.ravel(engine.predict(form, lanes, inputs))
        ends = bootstrap.interval(value, draws, confidence, entry["coordinates"]["freedom"])
        entries.append(
            {"law": name, **inputs, "tokens_per_param": tokens / params}
            | {"loss": value, "loss_low": ends.low, "loss_high": ends.high}
            | {"sentence": verdict.beyond(saved, float(flops))}
        )
    return entries
