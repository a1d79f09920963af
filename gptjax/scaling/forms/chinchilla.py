"""The loss as a sum of one power of size and one of data: Chinchilla's law.

`two_powers` and `two_power_loss` serve the forms that build on it.
"""

from typing import Any

from gptjax.scaling.forms.form import (
    Form,
    Parameter,
    Values,
    amplitude,
    exp,
    exponent,
    log,
    power,
)

IRREDUCIBLE = Parameter("E", low=1e-6)


def two_powers(size: str) -> tuple[Parameter, ...]:
    """E, A, B, alpha, beta of E + A N^-alpha + B D^-beta, with N in the column `size`."""
    of_size, of_data = amplitude("A", size, "alpha"), amplitude("B", "tokens", "beta")
    return IRREDUCIBLE, of_size, of_data, exponent("alpha"), exponent("beta")


def two_power_loss(p: Values, params: Any, tokens: Any) -> Any:
    return p["E"] + p["A"] * power(params, -p["alpha"]) + p["B"] * power(tokens, -p["beta"])


CHINCHILLA = Form(
    name="chinchilla",
    equation="L = E + A N^-alpha + B D^-beta",
    columns=("params", "tokens"),
    parameters=two_powers("params"),
    loss=lambda p, x: two_power_loss(p, x["params"], x["tokens"]),
    linear=("E", "A", "B"),
    paper="Hoffmann et al. 2022, arXiv:2203.15556, approach 3; Besiroglu et al. 2024, "
    "arXiv:2404.10102",
    units="E in nats per token; A, B in nats times params^alpha, tokens^beta",
    differs="the paper's printed A=406.4, B=410.7, E=1.69, alpha=.34, beta=.28 are rounded and "
    "come from an optimizer that stopped early; its own data give E=1.82, alpha=.35, beta=.37",
    two_powers=True,
)


def _power_mean_loss(p: Values, x: Values) -> Any:
    of_size = log(p["A"]) - p["alpha"] * log(x["params"])
    of_data = log(p["B"]) - p["beta"] * log(x["tokens"])
    bend = 1 / p["g"]
    return power(power(p["E"], bend) + exp(bend * of_size) + exp(bend * of_data), p["g"])


POWER_MEAN = Form(
    name="power_mean",
    equation="L = [E^(1/g) + (A N^-alpha)^(1/g) + (B D^-beta)^(1/g)]^g",
    columns=("params", "tokens"),
    parameters=(*two_powers("params"), Parameter("g", low=0.1, high=10.0, start=(0.5, 2.0))),
    loss=_power_mean_loss,
    paper="Droppo and Elibol 2021, arXiv:2106.09488, equation 6, with alpha written g",
    units="E in nats per token; A, B in nats times params^alpha, tokens^beta",
    differs="N_C^alpha_N is written A; g = 1 is Chinchilla's law, E = 0 Kaplan's of size and data",
)

FORMS = (CHINCHILLA, POWER_MEAN)
