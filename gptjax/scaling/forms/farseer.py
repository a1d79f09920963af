"""Farseer's law: level, factor and exponent of the data term all change with size."""

from typing import Any

from gptjax.scaling.forms.form import Form, Values, exp, free, log, power


def _farseer_loss(p: Values, x: Values) -> Any:
    size = log(x["params"])
    floor = exp(p["b3"] + p["a3"] * exp(p["gamma"] * size))
    factor = exp(p["b2"] + p["a2"] * exp(p["beta"] * size))
    return floor + factor * power(x["tokens"], -exp(p["b1"] + p["a1"] * exp(p["alpha"] * size)))


BENDS = ("alpha", "beta", "gamma")

FARSEER = Form(
    name="farseer",
    equation="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    columns=("params", "tokens"),
    parameters=(
        free("a1", (-0.15, 0.15)),
        free("b1", (-2.0, -0.5)),
        free("alpha", (-0.3, 0.3), 2.0),
        free("a2", (-1.0, 0.5)),
        free("b2", (2.0, 16.0)),
        free("beta", (-0.3, 0.3), 2.0),
        free("a3", (-0.15, 0.05)),
        free("b3", (-1.0, 1.2)),
        free("gamma", (-0.3, 0.3), 2.0),
    ),
    curves=tuple((f"a{i}", bend, f"b{i}", "params") for i, bend in enumerate(BENDS, 1)),
    loss=_farseer_loss,
    paper="Li et al. 2025 (Farseer), arXiv:2506.10972, equation 6",
    units="loss in nats per token",
    differs="nine parameters: an IsoFLOP grid does not determine them; read predictions, or run a "
    "wide grid of sizes and tokens",
)

FORMS = (FARSEER,)
