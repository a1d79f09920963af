"""Laws of repeated data: what further passes over the same tokens are worth."""

from typing import Any

from gptjax.scaling.forms.chinchilla import two_power_loss, two_powers
from gptjax.scaling.forms.form import Form, Parameter, Values, exp, log, minimum


def _saturating(unique: Any, repeats: Any, rate: Any) -> Any:
    """U + U R* (1 - e^(-R/R*)): what `repeats` further passes over U are worth."""
    return unique * (1 + rate * (1 - exp(-repeats / rate)))


def _muennighoff_loss(p: Values, x: Values) -> Any:
    unique = minimum(x["unique_tokens"], x["tokens"])
    tokens = _saturating(unique, x["tokens"] / unique - 1, p["R_D"])
    ratio = log(p["alpha"]) + log(p["A"]) - log(p["beta"]) - log(p["B"])
    log_g = ratio / (p["alpha"] + p["beta"])
    # The size that is compute-optimal for the unique tokens; only what exceeds it decays.
    fitting = exp(log_g + (log(unique) + log_g) * p["beta"] / p["alpha"])
    base = minimum(x["params"], fitting)
    params = _saturating(base, x["params"] / base - 1, p["R_N"])
    return two_power_loss(p, params, tokens)


MUENNIGHOFF = Form(
    name="muennighoff",
    equation="L = E + A N'^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), "
    "N' likewise over the size that is optimal for U",
    columns=("params", "tokens", "unique_tokens"),
    parameters=(
        *two_powers("params"),
        Parameter("R_D", low=1e-3, high=1e5, start=(1.0, 50.0)),
        Parameter("R_N", low=1e-3, high=1e5, start=(1.0, 50.0)),
    ),
    loss=_muennighoff_loss,
    paper="Muennighoff et al. 2023, arXiv:2305.16264, equations 5 to 7",
    units="R_D, R_N in repetitions; unique_tokens in tokens",
    differs="the authors freeze A, B, E, alpha, beta from single-epoch runs and fit R_D, R_N "
    "alone; R_D sits in a flat valley whose far end the data hardly bound",
)

FORMS = (MUENNIGHOFF,)
