"""Effective data transferred: what pre-training is worth in tokens of the fine-tuning data."""

from typing import Any

import numpy as np

from gptjax.scaling.forms.form import Form, Parameter, free, power

EFFECTIVE_DATA = Form(
    name="effective_data_transferred",
    equation="D_T = k D_F^alpha N^beta",
    columns=("params", "tokens"),
    parameters=(
        Parameter("k", True, scale=(("tokens", "alpha", -1.0), ("params", "beta", -1.0))),
        free("alpha", (0.0, 1.0), 10.0),
        free("beta", (-0.5, 1.0), 10.0),
    ),
    loss=lambda p, x: p["k"] * power(x["tokens"], p["alpha"]) * power(x["params"], p["beta"]),
    linear=("k",),
    of_loss=False,
    paper="Hernandez et al. 2021, arXiv:2102.01293, equation 1.1",
    units="what is predicted: tokens D_T; tokens: D_F that are fine-tuned on; params: N",
)

FORMS = (EFFECTIVE_DATA,)


def effective_data(tokens_n: Any, losses_n: Any, loss: float) -> float:
    """D_E: tokens from which a model trained from scratch has this loss, by interpolation.

    ln D is linear in ln L between the measured points, of which a loss above that of fewer tokens
    counts as that one. NaN where the loss is outside of them.

    >>> round(effective_data([100, 400], [4.0, 1.0], 2.0))
    200
    """
    order = np.argsort(np.asarray(tokens_n, np.float64))
    logs = np.log(np.asarray(tokens_n, np.float64)[order])
    falling = np.minimum.accumulate(np.log(np.asarray(losses_n, np.float64)[order]))
    inside = falling[-1] <= np.log(loss) <= falling[0]
    return float(np.exp(np.interp(np.log(loss), falling[::-1], logs[::-1]))) if inside else np.nan
