"""Scores of abilities against size: a threshold and its smooth rival."""

from gptjax.scaling.forms.form import Form, Parameter, amplitude, exponent, free, power, threshold

SIGMOID = Form(
    name="sigmoid",
    of_loss=False,
    equation="score = low + (high - low) / (1 + (N / N_half)^(-1/width))",
    columns=("params",),
    parameters=(
        free("low", (0.0, 0.3), 10.0),
        free("high", (0.5, 1.0), 10.0),
        threshold("N_half", "params", (0.1, 10.0), 1e6),
        Parameter("width", low=1e-2, high=20.0, start=(0.1, 2.0)),
    ),
    loss=lambda p, x: (
        p["low"] + (p["high"] - p["low"]) / (1 + power(x["params"] / p["N_half"], -1 / p["width"]))
    ),
    linear=("low", "high"),
    paper="the logistic curve in ln N; Wei et al. 2022, arXiv:2206.07682, for the claim",
    units="score in its own unit; N_half in parameters; width in powers of e",
    differs="a threshold must beat a smooth form: Schaeffer et al. 2023, arXiv:2304.15004",
)

SMOOTH = Form(
    name="smooth",
    of_loss=False,
    equation="score = top - K N^-alpha",
    columns=("params",),
    parameters=(
        free("top", (0.5, 1.0), 10.0),
        amplitude("K", "params", "alpha"),
        exponent("alpha"),
    ),
    loss=lambda p, x: p["top"] - p["K"] * power(x["params"], -p["alpha"]),
    linear=("top", "K"),
    paper="the smooth alternative to `sigmoid`",
    units="score in its own unit",
)

FORMS = (
    SIGMOID,
    SMOOTH,
)
