"""Kaplan's laws of size, data, compute and steps, none with an irreducible loss."""

from gptjax.scaling.forms.form import Form, exponent, power, threshold

KAPLAN = "Kaplan et al. 2020, arXiv:2001.08361"


def _kaplan_single(name: str, column: str, symbol: str, equation: str) -> Form:
    """L = (X_c / X)^alpha for one of N, D, C."""
    return Form(
        name=name,
        equation=equation,
        columns=(column,),
        parameters=(threshold(symbol, column, (1e1, 1e8), 1e60), exponent("alpha", (0.02, 0.5))),
        loss=lambda p, x: power(p[symbol] / x[column], p["alpha"]),
        paper=f"{KAPLAN}, equations 1.1 to 1.3",
        units=f"{symbol} in the units of {column}; N without embeddings",
        differs="no irreducible loss: it cannot bend, so it fails where the loss nears its floor",
    )


KAPLAN_N = _kaplan_single("kaplan_n", "params", "Nc", "L = (Nc / N)^alpha")
KAPLAN_D = _kaplan_single("kaplan_d", "tokens", "Dc", "L = (Dc / D)^alpha")
KAPLAN_C = _kaplan_single("kaplan_c", "flops", "Cc", "L = (Cc / C)^alpha")

KAPLAN_ND = Form(
    name="kaplan_nd",
    equation="L = [(Nc / N)^(alpha_N / alpha_D) + Dc / D]^alpha_D",
    columns=("params", "tokens"),
    parameters=(
        threshold("Nc", "params", (1e1, 1e8), 1e60),
        threshold("Dc", "tokens", (1e1, 1e8), 1e60),
        exponent("alpha_N", (0.02, 0.5)),
        exponent("alpha_D", (0.02, 0.5)),
    ),
    loss=lambda p, x: power(
        power(p["Nc"] / x["params"], p["alpha_N"] / p["alpha_D"]) + p["Dc"] / x["tokens"],
        p["alpha_D"],
    ),
    paper=f"{KAPLAN}, equation 1.5",
    units="Nc in parameters without embeddings, Dc in tokens",
    differs="fitted by the authors to early-stopped runs; no irreducible loss",
)

KAPLAN_NS = Form(
    name="kaplan_ns",
    equation="L = (Nc / N)^alpha_N + (Sc / S)^alpha_S",
    columns=("params", "steps"),
    parameters=(
        threshold("Nc", "params", (1e1, 1e8), 1e60),
        threshold("Sc", "steps", (1e-6, 1e2), 1e60),
        exponent("alpha_N", (0.02, 0.5)),
        exponent("alpha_S", (0.1, 1.5)),
    ),
    loss=lambda p, x: (
        power(p["Nc"] / x["params"], p["alpha_N"]) + power(p["Sc"] / x["steps"], p["alpha_S"])
    ),
    paper=f"{KAPLAN}, equation 1.6",
    units="S is S_min = S / (1 + B / B_crit): the steps that a very large batch would need",
    differs="often fitted to raw steps at one batch size, which is another law",
)


def kaplan_allocation(alpha_n: float, alpha_s: float, alpha_b: float) -> dict[str, float]:
    """Exponents of C_min for the size, the batch and the steps (Kaplan et al., section 6 and B.1).

    alpha_C = 1 / (1/alpha_S + 1/alpha_B + 1/alpha_N); N grows as C^(alpha_C/alpha_N) and so on.
    The paper quotes 0.73 for N, measured; its rounded exponents give less.

    >>> round(kaplan_allocation(0.076, 0.76, 0.21)["params"], 2)
    0.68
    """
    alpha_c = 1 / (1 / alpha_s + 1 / alpha_b + 1 / alpha_n)
    exponents = {"params": alpha_n, "batch": alpha_b, "steps": alpha_s}
    return {"loss": alpha_c, **{name: alpha_c / value for name, value in exponents.items()}}


FORMS = (
    KAPLAN_N,
    KAPLAN_D,
    KAPLAN_C,
    KAPLAN_ND,
    KAPLAN_NS,
)
