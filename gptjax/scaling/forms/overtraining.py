"""Laws of models trained far beyond their compute-optimal tokens, and of their errors on tasks."""

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import Form, amplitude, exp, exponent, positive, power

GADRE = Form(
    name="gadre",
    equation="L = E + a N^-x + b 6^(-x/2) D^-x",
    columns=("params", "tokens"),
    parameters=(
        IRREDUCIBLE,
        amplitude("a", "params", "x"),
        amplitude("b", "tokens", "x"),
        exponent("x"),
    ),
    loss=lambda p, x: (
        p["E"]
        + p["a"] * power(x["params"], -p["x"])
        + p["b"] * power(6.0, -p["x"] / 2) * power(x["tokens"], -p["x"])
    ),
    linear=("E", "a", "b"),
    paper="Gadre et al. 2024, arXiv:2403.08540, equation 4",
    units="E in nats per token; x is twice the paper's exponent of C",
    differs="one exponent for size and data; the paper fits least squares of the loss itself",
)

ERROR_OF_LOSS = Form(
    name="error_of_loss",
    equation="y = epsilon - k exp(-gamma L)",
    columns=("task_loss",),
    parameters=(
        positive("epsilon", (0.5, 1.0)),
        positive("k", (0.1, 10.0), low=1e-12, high=1e12),
        exponent("gamma", (0.3, 3.0)),
    ),
    loss=lambda p, x: p["epsilon"] - p["k"] * exp(-p["gamma"] * x["task_loss"]),
    linear=("epsilon", "k"),
    of_loss=False,
    paper="Gadre et al. 2024, arXiv:2403.08540, equation 5",
    units="y is a share of wrong answers, task_loss a loss in nats per token",
    differs="for fit.chained, whose loss is that of the table; least squares of the error",
)

FORMS = (GADRE, ERROR_OF_LOSS)
