"""Gold reward gained by optimising against a reward model, by the distance from the first policy.

The distance is d = sqrt(KL(policy ‖ first policy)), in square roots of nats.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from gptjax.scaling.forms.form import Form, Values, free, log

PAPER = "Gao et al. 2022, arXiv:2210.10760, section 3.1"
UNITS = "what is predicted: gold reward above that of the first policy; distance in nats^(1/2)"


def _form(name: str, equation: str, loss: Callable[[Values, Values], Any]) -> Form:
    return Form(
        name=name,
        equation=equation,
        columns=("distance",),
        parameters=(free("alpha"), free("beta")),
        loss=loss,
        linear=("alpha", "beta"),
        of_loss=False,
        paper=PAPER,
        units=UNITS,
    )


BEST_OF_N = _form(
    "overoptimization_best_of_n",
    "R = d (alpha - beta d)",
    lambda p, x: x["distance"] * (p["alpha"] - p["beta"] * x["distance"]),
)
REINFORCEMENT = _form(
    "overoptimization_rl",
    "R = d (alpha - beta ln d)",
    lambda p, x: x["distance"] * (p["alpha"] - p["beta"] * log(x["distance"])),
)
FORMS = (BEST_OF_N, REINFORCEMENT)


def peak(form: Form, values: Values) -> Any:
    """The distance of the highest gold reward; NaN where β ≤ 0 and it does not bend down.

    α/2β of best of n and e^(α/β − 1) of reinforcement learning, where the derivative is zero.

    >>> float(peak(BEST_OF_N, {"alpha": 2.0, "beta": 0.5}))
    2.0
    >>> float(peak(REINFORCEMENT, {"alpha": 0.5, "beta": 0.5}))
    1.0
    """
    alpha, beta = (np.asarray(values[name], np.float64) for name in ("alpha", "beta"))
    bends = beta > 0
    ratio = alpha / np.where(bends, beta, 1.0)
    place = np.maximum(ratio / 2, 0.0) if form is BEST_OF_N else np.exp(np.minimum(ratio - 1, 50.0))
    return np.where(bends, place, np.nan)
