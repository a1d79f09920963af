"""The law forms of the literature, each with its equation, its source and where copies differ."""

from typing import Any

from gptjax.scaling.forms import (
    Form,
    Parameter,
    Values,
    amplitude,
    exp,
    exponent,
    free,
    log,
    minimum,
    positive,
    power,
    threshold,
)

IRREDUCIBLE = Parameter("E", low=1e-6)

# --- E + A N^-alpha + B D^-beta --------------------------------------------------------------


def _two_powers(size: str) -> tuple[Parameter, ...]:
    """E, A, B, alpha, beta of E + A N^-alpha + B D^-beta, with N in the column `size`."""
    of_size, of_data = amplitude("A", size, "alpha"), amplitude("B", "tokens", "beta")
    return IRREDUCIBLE, of_size, of_data, exponent("alpha"), exponent("beta")


def _two_power_loss(p: Values, params: Any, tokens: Any) -> Any:
    return p["E"] + p["A"] * power(params, -p["alpha"]) + p["B"] * power(tokens, -p["beta"])


CHINCHILLA = Form(
    name="chinchilla",
    equation="L = E + A N^-alpha + B D^-beta",
    columns=("params", "tokens"),
    parameters=_two_powers("params"),
    loss=lambda p, x: _two_power_loss(p, x["params"], x["tokens"]),
    linear=("E", "A", "B"),
    paper="Hoffmann et al. 2022, arXiv:2203.15556, approach 3; Besiroglu et al. 2024, "
    "arXiv:2404.10102",
    units="E in nats per token; A, B in nats times params^alpha, tokens^beta",
    differs="the paper's printed A=406.4, B=410.7, E=1.69, alpha=.34, beta=.28 are rounded and "
    "come from an optimizer that stopped early; its own data give E=1.82, alpha=.35, beta=.37",
    two_powers=True,
)


def _frontier_loss(p: Values, x: Values) -> Any:
    return p["E"] + p["K"] * power(x["flops"], -p["gamma"])


FRONTIER = Form(
    name="frontier",
    equation="L = E + K C^-gamma",
    columns=("flops",),
    parameters=(IRREDUCIBLE, amplitude("K", "flops", "gamma"), exponent("gamma")),
    loss=_frontier_loss,
    linear=("E", "K"),
    paper="Henighan et al. 2020, arXiv:2010.14701, equation 1.1, on compute-optimal runs",
    units="E in nats per token; C in FLOPs",
)

# --- Kaplan ----------------------------------------------------------------------------------

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


# --- Repeated data ---------------------------------------------------------------------------


def _saturating(unique: Any, repeats: Any, rate: Any) -> Any:
    """U + U R* (1 - e^(-R/R*)): what `repeats` further passes over U are worth."""
    return unique * (1 + rate * (1 - exp(-repeats / rate)))


def _muennighoff_loss(p: Values, x: Values) -> Any:
    unique = minimum(x["unique_tokens"], x["tokens"])
    tokens = _saturating(unique, x["tokens"] / unique - 1, p["R_D"])
    ratio = log(p["alpha"]) + log(p["A"]) - log(p["beta"]) - log(p["B"])
    log_g = ratio / (p["alpha"] + p["beta"])
    # The size that is compute-optimal for the unique tokens; only what exceeds it decays.
    fitting = exp(log_g + (log(unique) + log_g) * p["beta"] / p["alpha"])
    base = minimum(x["params"], fitting)
    params = _saturating(base, x["params"] / base - 1, p["R_N"])
    return _two_power_loss(p, params, tokens)


MUENNIGHOFF = Form(
    name="muennighoff",
    equation="L = E + A N'^-alpha + B D'^-beta, D' = U + U R_D (1 - exp(-(D/U - 1) / R_D)), "
    "N' likewise over the size that is optimal for U",
    columns=("params", "tokens", "unique_tokens"),
    parameters=(
        *_two_powers("params"),
        Parameter("R_D", low=1e-3, high=1e5, start=(1.0, 50.0)),
        Parameter("R_N", low=1e-3, high=1e5, start=(1.0, 50.0)),
    ),
    loss=_muennighoff_loss,
    paper="Muennighoff et al. 2023, arXiv:2305.16264, equations 5 to 7",
    units="R_D, R_N in repetitions; unique_tokens in tokens",
    differs="the authors freeze A, B, E, alpha, beta from single-epoch runs and fit R_D, R_N "
    "alone; R_D sits in a flat valley whose far end the data hardly bound",
)

# --- Over-training, and richer surfaces ------------------------------------------------------


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


def _farseer_loss(p: Values, x: Values) -> Any:
    size = log(x["params"])
    floor = exp(p["b3"] + p["a3"] * exp(p["gamma"] * size))
    factor = exp(p["b2"] + p["a2"] * exp(p["beta"] * size))
    return floor + factor * power(x["tokens"], -exp(p["b1"] + p["a1"] * exp(p["alpha"] * size)))


BENDS = ("alpha", "beta", "gamma")

FARSEER = Form(
    name="farseer",
    equation="L = exp(a3 N^gamma + b3) + exp(a2 N^beta + b2) D^-exp(a1 N^alpha + b1)",
    columns=("params", "tokens"),
    parameters=(
        free("a1", (-0.15, 0.15)),
        free("b1", (-2.0, -0.5)),
        free("alpha", (-0.3, 0.3), 2.0),
        free("a2", (-1.0, 0.5)),
        free("b2", (2.0, 16.0)),
        free("beta", (-0.3, 0.3), 2.0),
        free("a3", (-0.15, 0.05)),
        free("b3", (-1.0, 1.2)),
        free("gamma", (-0.3, 0.3), 2.0),
    ),
    curves=tuple((f"a{i}", bend, f"b{i}", "params") for i, bend in enumerate(BENDS, 1)),
    loss=_farseer_loss,
    paper="Li et al. 2025 (Farseer), arXiv:2506.10972, equation 6",
    units="loss in nats per token",
    differs="nine parameters: an IsoFLOP grid does not determine them; read predictions, or run a "
    "wide grid of sizes and tokens",
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
        *_two_powers("params_active"),
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


def _broken_loss(p: Values, x: Values) -> Any:
    size = x["params"]
    bend = power(1 + power(size / p["N_break"], 1 / p["f"]), -p["c1"] * p["f"])
    return p["E"] + p["A"] * power(size, -p["c0"]) * bend


BROKEN = Form(
    name="broken",
    equation="L = E + A N^-c0 (1 + (N / N_break)^(1/f))^(-c1 f)",
    columns=("params",),
    parameters=(
        IRREDUCIBLE,
        amplitude("A", "params", "c0"),
        exponent("c0"),
        free("c1", (-0.5, 0.5), 10.0),
        threshold("N_break", "params"),
        Parameter("f", low=0.02, high=10.0, start=(0.1, 0.5)),
    ),
    loss=_broken_loss,
    linear=("E", "A"),
    paper="Caballero et al. 2022, arXiv:2210.14891, equation 1 with one break",
    units="N_break in parameters; f is the width of the bend in powers of e",
)

# --- Abilities: a threshold and its smooth rival ---------------------------------------------

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

# --- Learning rates and batches ------------------------------------------------------------------

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

PAPER_FORMS = (
    CHINCHILLA,
    FRONTIER,
    KAPLAN_N,
    KAPLAN_D,
    KAPLAN_C,
    KAPLAN_ND,
    KAPLAN_NS,
    MUENNIGHOFF,
    GADRE,
    FARSEER,
    MOE,
    BROKEN,
    SIGMOID,
    SMOOTH,
    POWER_ND,
    CRITICAL_BATCH,
)
