"""The law of parallel streams: P passes of one model count as ln P more parameters."""

from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import Form, amplitude, exponent, log, positive, power

PARALLEL = Form(
    name="parallel",
    equation="L = E + A [N (1 + k ln P)]^-alpha",
    columns=("params", "streams"),
    parameters=(
        IRREDUCIBLE,
        amplitude("A", "params", "alpha"),
        exponent("alpha"),
        positive("k", (0.1, 1.0)),
    ),
    loss=lambda p, x: (
        p["E"] + p["A"] * power(x["params"] * (1 + p["k"] * log(x["streams"])), -p["alpha"])
    ),
    linear=("E", "A"),
    paper="Chen et al. 2025 (ParScale), arXiv:2505.10475, equation 5",
    units="params: without embeddings; streams: parallel passes P, 1 for a plain model",
    differs="the paper's A is a size, A^alpha of it the factor that is fitted here; no term of the "
    "data: every run there had the same tokens",
)

FORMS = (PARALLEL,)
