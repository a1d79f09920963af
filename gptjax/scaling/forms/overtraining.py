"""Laws of models trained far beyond their compute-optimal tokens."""

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import Form, amplitude, exponent, power

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

FORMS = (GADRE,)
