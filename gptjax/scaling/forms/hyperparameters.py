"""Laws of the best learning rate or batch, and of the critical batch."""

from gptjax.scaling.forms.form import Form, Parameter, free, positive, power, threshold

POWER_ND = Form(
    name="power_nd",
    of_loss=False,
    equation="y = K N^a D^b",
    columns=("params", "tokens"),
    parameters=(
        Parameter("K", scale=(("params", "a", -1.0), ("tokens", "b", -1.0))),
        free("a", (-1.0, 1.0), 10.0),
        free("b", (-1.0, 1.0), 10.0),
    ),
    loss=lambda p, x: p["K"] * power(x["params"], p["a"]) * power(x["tokens"], p["b"]),
    linear=("K",),
    paper="hyperparameter laws: Bi et al. 2024 (DeepSeek), arXiv:2401.02954; Li et al. 2025 "
    "(Step Law), arXiv:2503.04715",
    units="y is the best learning rate, or the best batch in tokens, at each (N, D)",
)

CRITICAL_BATCH = Form(
    name="critical_batch",
    of_loss=False,
    equation="steps = S_min (1 + B_crit / batch)",
    columns=("batch",),
    parameters=(positive("S_min", high=1e12), threshold("B_crit", "batch")),
    loss=lambda p, x: p["S_min"] * (1 + p["B_crit"] / x["batch"]),
    linear=("S_min",),
    paper="McCandlish et al. 2018, arXiv:1812.06162, equation 2.11",
    units="steps to one fixed loss; batch and B_crit in tokens",
)

FORMS = (
    POWER_ND,
    CRITICAL_BATCH,
)
