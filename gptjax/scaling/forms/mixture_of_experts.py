"""Laws of mixture-of-experts models: the number of experts changes both exponents."""

from typing import Any

from gptjax.scaling.forms.chinchilla import two_powers
from gptjax.scaling.forms.form import Form, Values, exp, free, log


def _moe_loss(p: Values, x: Values) -> Any:
    size, data, experts = log(x["params_active"]), log(x["tokens"]), log(x["experts"])
    of_size = p["A"] * exp(p["delta"] * experts - (p["alpha"] + p["gamma"] * experts) * size)
    of_data = p["B"] * exp(p["omega"] * experts - (p["beta"] + p["zeta"] * experts) * data)
    return p["E"] + of_size + of_data


MOE = Form(
    name="moe",
    equation="L = E + A X^delta N_active^-(alpha + gamma ln X) + B X^omega D^-(beta + zeta ln X)",
    columns=("params_active", "tokens", "experts"),
    parameters=(
        *two_powers("params_active"),
        free("gamma", (-0.02, 0.02), 10.0),
        free("delta", (-0.5, 0.5), 50.0),
        free("zeta", (-0.02, 0.02), 10.0),
        free("omega", (-0.5, 0.5), 50.0),
    ),
    loss=_moe_loss,
    linear=("E", "A", "B"),
    paper="Ludziejewski et al. 2025, arXiv:2502.05172, equation 2, with X the number of experts",
    units="params_active: parameters that a token uses",
    differs="the paper passes X through a saturating transform; here it is the plain count",
)

FORMS = (MOE,)
