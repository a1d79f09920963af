"""Emergence test: whether an ability appears at a size or grows smoothly, by comparing two forms.

The sigmoid in ln N is never read alone: its smooth rival is fitted to the same runs by the same
rule, and the two are compared by the small-sample Akaike criterion (Hurvich and Tsai 1989), which
charges the sigmoid for its fourth parameter. A better sigmoid is still no threshold unless its rise
lies inside the sizes that were run and is sharp beside their range (Schaeffer et al. 2023,
arXiv:2304.15004, on thresholds that are made by the choice of score).
"""

import dataclasses
import math
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.config import FitConfig
from gptjax.scaling.fit.fit import fit
from gptjax.scaling.fit.result import Fit
from gptjax.scaling.tables.runs import Runs, prepare

MARGIN = 6.0  # difference in AICc that counts: odds of twenty to one
SHARP = 0.5  # the rise from a tenth to nine tenths takes less than this share of ln N's range
RISE = 2 * math.log(9)  # widths between a tenth and nine tenths of a logistic curve
RIVALS = ("sigmoid", "smooth")


@dataclasses.dataclass(frozen=True)
class Emergence:
    """A sigmoid beside its smooth rival.

    Attributes:
      sigmoid, smooth: the two fits, of the same runs.
      gain: AICc of the smooth form minus that of the sigmoid; above zero the sigmoid is better.
      inside: whether the interval of N_half lies within the sizes that were run.
      span: the rise from a tenth to nine tenths as a share of ln N's range.
      threshold: whether the threshold has earned its name.
      sentence: what was found and why.
    """

    sigmoid: Fit
    smooth: Fit
    gain: float
    inside: bool
    span: float
    threshold: bool
    sentence: str


def judge_threshold(table: Any, *, config: FitConfig | None = None, **options: Any) -> Emergence:
    """Fit both forms to scores against size and judge.

    Args:
      table: columns `params` and a score (name it by `column_loss`), one row a model.
      config, options: as in `fit`; scores are fitted by least squares unless said otherwise.

    Raises:
      UserError: when the table is wrong or too small for a sigmoid.
    """
    options = {"loss_kind": "squares", **options}
    config = dataclasses.replace(config or FitConfig(), **options)
    runs = table if isinstance(table, Runs) else prepare(table, config, ("params",))
    return compare(*(fit(runs, name, config=config) for name in RIVALS))


def compare(sigmoid: Fit, smooth: Fit) -> Emergence:
    """Whether the sigmoid of two fits to the same runs is a threshold.

    Raises:
      UserError: when there are too few runs to charge for a parameter.
    """
    gain = aicc(smooth) - aicc(sigmoid)
    sizes = np.log(sigmoid.runs.params)
    centre = sigmoid.params["N_half"]
    ends = [centre.low, centre.high] if math.isfinite(centre.low) else [centre.value] * 2
    inside = bool(
        sizes.min() <= math.log(max(ends[0], 1e-300)) and math.log(ends[1]) <= sizes.max()
    )
    span = RISE * sigmoid.values["width"] / float(np.ptp(sizes))
    against = [
        why
        for why, true in (
            (
                f"a smooth curve describes the runs as well (AICc better by only {gain:.1f}, "
                f"{MARGIN:g} are asked)",
                gain < MARGIN,
            ),
            ("the place of the rise is not bounded by the sizes that were run", not inside),
            (f"the rise takes {span:.0%} of the range of sizes", span > SHARP),
        )
        if true
    ]
    if against:
        sentence = f"No threshold is shown: {'; '.join(against)}."
    else:
        sentence = (
            f"There is a threshold near {centre.value:.3g} parameters: a sigmoid describes the "
            f"runs better than a smooth curve (AICc by {gain:.1f}), and its rise takes {span:.0%} "
            "of the range of sizes. Another score of the same outputs may still be smooth."
        )
    return Emergence(sigmoid, smooth, gain, inside, span, not against, sentence)


def aicc(law: Fit) -> float:
    """Akaike's criterion with the small-sample term, of Gaussian residuals; lower is better.

    Raises:
      UserError: with no more runs than parameters can be charged for.
    """
    n, k = len(law.residuals), len(law.theta) + 1  # the noise is a parameter too
    if n <= k + 1:
        raise UserError(
            f"{law.form.name} cannot be compared on {n} runs; give at least {k + 2} sizes"
        )
    square = max(float(np.mean(law.residuals**2)), 1e-30)
    return n * math.log(square) + 2 * k + 2 * k * (k + 1) / (n - k - 1)


def describe(found: Emergence) -> dict[str, Any]:
    """The `emergence` block of laws.json."""
    return {
        "threshold": found.threshold,
        "sentence": found.sentence,
        "gain": found.gain,
        "margin": MARGIN,
        "inside": found.inside,
        "span": found.span,
        "aicc": {law.form.name: aicc(law) for law in (found.sigmoid, found.smooth)},
    }
