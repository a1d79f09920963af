"""Fitted coordinates of a law: what the search moves, and the natural values that they stand for.

Positive parameters are fitted as logarithms and factors as their value at the middle of the data,
where they do not trade against the exponents beside them.
"""

from typing import Any

import numpy as np

from gptjax.scaling.forms.form import Form, exp


def values_of(form: Form, theta: Any, centres: Any) -> dict[str, Any]:
    """Named natural values from fitted coordinates; the last axis of `theta` is the parameter."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        return natural(form, {p.name: theta[..., i] for i, p in enumerate(form.fitted)}, centres)


def natural(form: Form, raw: dict[str, Any], centres: Any) -> dict[str, Any]:
    """Natural values from named coordinates: arrays, traced arrays or jets."""
    raw = raw | {name: raw[other] for name, other in form.tied.items() if other in raw}
    found: dict[str, Any] = dict(form.constants)
    found |= {name: form.constants[o] for name, o in form.tied.items() if o in form.constants}
    for parameter in (p for p in form.parameters if not p.scale and p.name in raw):
        value = raw[parameter.name]
        found[parameter.name] = exp(value) if parameter.positive else value
    for parameter in (p for p in form.parameters if p.scale and p.name in raw):
        shift = sum(s * exponent_of(found, power) * centres[c] for c, power, s in parameter.scale)
        found[parameter.name] = exp(raw[parameter.name] + shift)
    for factor, bend, shift, column in form.bent:
        tilt, level, power = raw[factor], raw[shift], raw[bend]
        found[factor] = tilt / power * exp(-power * centres[column])
        found[shift] = level - tilt / power
    return {name: found[name] for name in form.names}


def exponent_of(values: Any, name: str) -> Any:
    """The exponent of a centring term; '1' stands for one."""
    return 1.0 if name == "1" else values[name]


def theta_of(form: Form, values: dict[str, Any], centres: dict[str, float]) -> np.ndarray:
    """Fitted coordinates from natural values: the inverse of `values_of`."""
    columns = []
    values = dict(values)
    for factor, bend, shift, column in form.bent:
        top = values[factor] * np.exp(values[bend] * centres[column])
        values |= {factor: top * values[bend], shift: values[shift] + top}
    for parameter in form.fitted:
        value = np.asarray(values[parameter.name], dtype=np.float64)
        if parameter.positive:
            value = np.log(value)
        for column, power, sign in parameter.scale:
            value = value - sign * exponent_of(values, power) * centres[column]
        columns.append(value)
    return np.stack(np.broadcast_arrays(*columns), axis=-1)
