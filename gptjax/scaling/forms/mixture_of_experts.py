"""Laws of mixture-of-experts models: number, granularity and sparsity of the experts."""

from typing import Any

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE, two_power_loss, two_powers
from gptjax.scaling.forms.form import (
    Form,
    Values,
    amplitude,
    exp,
    exponent,
    free,
    log,
    positive,
    power,
)


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

GRANULARITY = Form(
    name="granularity",
    equation="L = E + (A + K G^-gamma) N^-alpha + B D^-beta",
    columns=("params", "tokens", "granularity"),
    parameters=(*two_powers("params"), amplitude("K", "params", "alpha"), exponent("gamma")),
    loss=lambda p, x: (
        two_power_loss(p, x["params"], x["tokens"])
        + p["K"] * power(x["granularity"], -p["gamma"]) * power(x["params"], -p["alpha"])
    ),
    linear=("E", "A", "B", "K"),
    paper="Krajewski et al. 2024, arXiv:2402.07871, equation 9, with a, b, c, g written A, B, E, K",
    units="params: all parameters without embeddings, those of every expert too; "
    "granularity: MLP width of the dense model over the width of an expert",
    differs="N is not the active parameters: at 64 experts of 100M the printed constants give "
    "3.90 with 1e8 in its place, where the paper's own table has 3.133",
)


def _sparsity_loss(p: Values, x: Values) -> Any:
    active = log(1 - x["sparsity"])
    alone = p["K"] * exp(-p["lambda_"] * active)
    both = p["M"] * exp(-p["delta"] * active - p["gamma"] * log(x["params"]))
    return two_power_loss(p, x["params"], x["tokens"]) + alone + both


SPARSITY = Form(
    name="sparsity",
    equation="L = E + A N^-alpha + B D^-beta + K (1-S)^-lambda + M (1-S)^-delta N^-gamma",
    columns=("params", "tokens", "sparsity"),
    parameters=(
        IRREDUCIBLE,
        *two_powers("params")[1:],
        positive("K", (0.05, 2.0)),
        free("lambda_", (-0.5, 0.5), 10.0),
        amplitude("M", "params", "gamma"),
        free("delta", (-0.5, 0.5), 10.0),
        exponent("gamma"),
    ),
    loss=_sparsity_loss,
    linear=("E", "A", "B", "K", "M"),
    loose=("sparsity",),
    paper="Abnar et al. 2025, arXiv:2501.12370, equation 6; here a, b, c, d, e are A, B, K, M, E",
    units="params: all parameters, those of every expert too; sparsity: share of inactive experts",
    differs="ten parameters: the authors report R² of 99 % on their runs and 68 % on a held-out "
    "sparsity, so read the interval, not the value, beyond the runs",
)

FORMS = (MOE, GRANULARITY, SPARSITY)
