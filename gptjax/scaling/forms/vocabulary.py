"""The law of the vocabulary: parameters of the embedding count apart from the others."""

from typing import Any

from gptjax.scaling.forms.form import Form, Values, amplitude, exponent, free, power


def _vocabulary_loss(p: Values, x: Values) -> Any:
    of_body = p["A"] * power(x["params"], -p["alpha"])
    of_vocabulary = p["V"] * power(x["params_vocab"], -p["nu"])
    return p["E"] + of_body + of_vocabulary + p["B"] * power(x["tokens"], -p["alpha"])


VOCABULARY = Form(
    name="vocabulary",
    equation="L_u = E + A N^-alpha + V N_vocab^-nu + B D^-alpha",
    columns=("params", "params_vocab", "tokens"),
    parameters=(
        free("E", (-10.0, 5.0)),
        amplitude("A", "params", "alpha"),
        amplitude("V", "params_vocab", "nu"),
        amplitude("B", "tokens", "alpha"),
        exponent("alpha"),
        exponent("nu"),
    ),
    loss=_vocabulary_loss,
    linear=("E", "A", "V", "B"),
    of_loss=False,
    paper="Tao et al. 2024, arXiv:2407.13623, section 3.3; alpha serves size and data, as there",
    units="params: without the vocabulary's; params_vocab: vocabulary times width; L_u: loss less "
    "that of unigrams, below zero: fit it with loss_kind=squares",
    differs="the printed A1=1.831, A2=.196, B=2.124 are for N and N_vocab in millions and D in "
    "billions, which copies of the law leave out; E there is minus the E here",
)

FORMS = (VOCABULARY,)
