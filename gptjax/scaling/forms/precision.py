"""The loss that quantization after training adds, against size, data and bits."""

from gptjax.scaling.forms.form import Form, Parameter, exp, exponent, positive, power

PRECISION_POST = Form(
    name="precision_post",
    equation="dL = C D^gamma_D N^-gamma_N exp(-P / gamma_P)",
    columns=("params", "tokens", "bits"),
    parameters=(
        Parameter("C", True, scale=(("params", "gamma_N", 1.0), ("tokens", "gamma_D", -1.0))),
        exponent("gamma_D"),
        exponent("gamma_N"),
        positive("gamma_P", (0.3, 2.0)),
    ),
    loss=lambda p, x: (
        p["C"]
        * power(x["tokens"], p["gamma_D"])
        * power(x["params"], -p["gamma_N"])
        * exp(-x["bits"] / p["gamma_P"])
    ),
    linear=("C",),
    of_loss=False,
    paper="Kumar et al. 2024, arXiv:2411.04330, equation 2: what quantizing afterwards adds",
    units="what is predicted: nats per token added; P: bits of a weight",
)

FORMS = (PRECISION_POST,)
