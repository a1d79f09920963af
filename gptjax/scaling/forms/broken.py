"""Broken power laws: the exponent changes at a size."""

from typing import Any

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import (
    Form,
    Parameter,
    Values,
    amplitude,
    exponent,
    free,
    power,
    threshold,
)


def _broken_loss(p: Values, x: Values) -> Any:
    size = x["params"]
    bend = power(1 + power(size / p["N_break"], 1 / p["f"]), -p["c1"] * p["f"])
    return p["E"] + p["A"] * power(size, -p["c0"]) * bend


BROKEN = Form(
    name="broken",
    equation="L = E + A N^-c0 (1 + (N / N_break)^(1/f))^(-c1 f)",
    columns=("params",),
    parameters=(
        IRREDUCIBLE,
        amplitude("A", "params", "c0"),
        exponent("c0"),
        free("c1", (-0.5, 0.5), 10.0),
        threshold("N_break", "params"),
        Parameter("f", low=0.02, high=10.0, start=(0.1, 0.5)),
    ),
    loss=_broken_loss,
    linear=("E", "A"),
    paper="Caballero et al. 2022, arXiv:2210.14891, equation 1 with one break",
    units="N_break in parameters; f is the width of the bend in powers of e",
)

FORMS = (BROKEN,)
