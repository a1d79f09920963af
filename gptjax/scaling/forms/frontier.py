"""The loss of compute-optimal runs as a power of their FLOPs."""

from typing import Any

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import Form, Values, amplitude, exponent, power


def _frontier_loss(p: Values, x: Values) -> Any:
    return p["E"] + p["K"] * power(x["flops"], -p["gamma"])


FRONTIER = Form(
    name="frontier",
    equation="L = E + K C^-gamma",
    columns=("flops",),
    parameters=(IRREDUCIBLE, amplitude("K", "flops", "gamma"), exponent("gamma")),
    loss=_frontier_loss,
    linear=("E", "K"),
    paper="Henighan et al. 2020, arXiv:2010.14701, equation 1.1, on compute-optimal runs",
    units="E in nats per token; C in FLOPs",
)

FORMS = (FRONTIER,)
