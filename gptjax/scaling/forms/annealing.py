"""Loss curves under learning-rate schedules: one run's curve predicts another schedule's.

Two laws, each a form over columns that are made here from the learning rates of every step. Tissue
et al. 2024 (arXiv:2408.11029) need two numbers a point: the area under the schedule and a decaying
memory of its falls. The multi-power law (Luo et al. 2025, arXiv:2503.12811) sums over every fall of
the schedule up to the point; falls that lie about equally far back are merged into a few.
"""

from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.forms.chinchilla import IRREDUCIBLE
from gptjax.scaling.forms.form import Form, Parameter, Values, amplitude, exponent, positive, power

FALLS = 8  # merged falls of a point


def annealing_columns(learning_rates: Any, memory: float = 0.999) -> dict[str, np.ndarray]:
    """S1 and S2 of a schedule at every step, the columns that `annealing` reads.

    S1 is the running sum of learning rates; S2 the running sum of a decaying memory m of their
    falls, m_i = memory m_(i-1) + (eta_(i-1) - eta_i) (Tissue et al. 2024, section 3).

    >>> columns = annealing_columns([1.0, 1.0, 0.5, 0.5], memory=0.5)
    >>> columns["lr_sum"].tolist(), columns["lr_annealed"].tolist()
    ([1.0, 2.0, 2.5, 3.0], [0.0, 0.0, 0.5, 0.75])
    """
    rates = np.asarray(learning_rates, np.float64)
    falls = np.concatenate([[0.0], rates[:-1] - rates[1:]])
    kept = np.empty_like(falls)
    held = 0.0
    for i, fall in enumerate(falls):
        held = memory * held + fall
        kept[i] = held
    return {"lr_sum": np.cumsum(rates), "lr_annealed": np.cumsum(kept)}


def multi_power_columns(
    learning_rates: Any, steps: Any = None, *, peak: float = 0.0
) -> dict[str, np.ndarray]:
    """What `multi_power` reads of a schedule at given steps.

    The falls after the schedule's peak, up to each step, as `fall_i`, `rate_i` (the learning rate
    after the fall) and `since_i` (the sum of learning rates from then on). More than 8 falls are
    merged into 8 where they lie about equally far back, evenly in ln(since); for a cosine that
    changes the loss by about one part in ten thousand.

    Args:
      learning_rates: of every step, warm-up included (it counts in the sum and has no falls).
      steps: 1-based steps wanted; every one when absent.
      peak: the learning rate that counts as 1; the schedule's own peak when 0. Give the same one
        for schedules that are fitted or predicted together.

    Raises:
      UserError: for a learning rate that is not above zero, but at the beginning of a warm-up, or
        a step outside of the schedule.

    >>> columns = multi_power_columns([1.0, 1.0, 0.5, 0.5], steps=[4])
    >>> [float(columns[name][0]) for name in ("lr_sum", "fall_1", "rate_1", "since_1", "fall_2")]
    [3.0, 0.5, 0.5, 1.0, 0.0]
    """
    rates = np.asarray(learning_rates, np.float64).ravel()
    begun = np.cumsum(rates > 0) > 0  # a warm-up may begin at zero
    if not np.any(begun) or not np.all(np.isfinite(rates) & ((rates > 0) | ~begun)):
        raise UserError(
            "a schedule has a learning rate that is not above zero after it began; leave such steps"
        )
    steps = np.arange(1, len(rates) + 1) if steps is None else np.asarray(steps).astype(int)
    if np.any((steps < 1) | (steps > len(rates))):
        raise UserError(f"a schedule of {len(rates)} steps has no step {steps.max()}")
    if not np.all(begun[steps - 1]):
        raise UserError(f"step {steps.min()} is before the first learning rate above zero")
    rates = rates / (peak or rates.max())
    sums = np.cumsum(rates)
    top = len(rates) - 1 - int(np.argmax(rates[::-1]))  # the last step at the peak
    place = np.flatnonzero(rates[top + 1 :] != rates[top:-1]) + top + 1
    fall = rates[place - 1] - rates[place]
    parts = np.zeros((len(steps), 3, FALLS))
    parts[:, 1:] = 1.0  # a rate and a distance without a fall: anything above zero
    for row, step in enumerate(steps):
        seen = place < step
        since = sums[step - 1] - sums[place[seen] - 1]
        merged = _merge(fall[seen], rates[place[seen]], since)
        parts[row, :, : merged.shape[1]] = merged
    columns = {"lr_sum": sums[steps - 1]}
    for i in range(FALLS):
        for name, values in zip(("fall", "rate", "since"), parts[:, :, i].T, strict=True):
            columns[f"{name}_{i + 1}"] = values
    return columns


def _merge(fall: np.ndarray, rate: np.ndarray, since: np.ndarray) -> np.ndarray:
    """(fall, rate, since) of at most FALLS falls, (3, k); means are weighted by the falls."""
    if len(fall) <= FALLS:
        return np.stack([fall, rate, since])
    edges = np.linspace(np.log(since.min()), np.log(since.max()), FALLS + 1)[1:-1]
    group = np.unique(np.searchsorted(edges, np.log(since)), return_inverse=True)[1]
    weight = np.abs(fall)
    total = np.bincount(group, weight)
    logs = [np.bincount(group, weight * np.log(values)) / total for values in (rate, since)]
    return np.stack([np.bincount(group, fall), *np.exp(logs)])


_FALL_COLUMNS = tuple(f"{n}_{i}" for i in range(1, FALLS + 1) for n in ("fall", "rate", "since"))


def _multi_power_loss(p: Values, x: Values) -> Any:
    drop = sum(
        x[f"fall_{i}"]
        * (1 - power(1 + p["C"] * power(x[f"rate_{i}"], -p["gamma"]) * x[f"since_{i}"], -p["beta"]))
        for i in range(1, FALLS + 1)
    )
    return p["L0"] + p["A"] * power(x["lr_sum"], -p["alpha"]) - p["B"] * drop


ANNEALING = Form(
    name="annealing",
    equation="L = E + A S1^-alpha - C S2",
    columns=("lr_sum", "lr_annealed"),
    parameters=(
        IRREDUCIBLE,
        amplitude("A", "lr_sum", "alpha"),
        exponent("alpha"),
        positive("C", low=1e-12, high=1e12),
    ),
    loss=lambda p, x: p["E"] + p["A"] * power(x["lr_sum"], -p["alpha"]) - p["C"] * x["lr_annealed"],
    linear=("E", "A", "C"),
    loose=("lr_annealed",),
    paper="Tissue et al. 2024, arXiv:2408.11029, equation 1",
    units="S1, S2 from `annealing_columns`, in units of learning rate times steps",
    differs="lambda, the memory of S2, is fixed (0.999 in the paper), not fitted",
)

MULTI_POWER = Form(
    name="multi_power",
    equation="L = L0 + A S1^-alpha - B sum_k (eta_(k-1) - eta_k) [1 - (1 + C eta_k^-gamma "
    "S_k)^-beta]",
    columns=("lr_sum", *_FALL_COLUMNS),
    parameters=(
        Parameter("L0", low=1e-6),
        amplitude("A", "lr_sum", "alpha"),
        exponent("alpha"),
        positive("B", low=1e-6, high=1e6),
        positive("C", (1e-3, 1.0), low=1e-8, high=1e4),
        exponent("beta"),
        exponent("gamma"),
    ),
    loss=_multi_power_loss,
    linear=("L0", "A", "B"),
    loose=_FALL_COLUMNS,
    paper="Luo et al. 2025, arXiv:2503.12811, equations 1 and 2",
    units="columns from `multi_power_columns`; learning rates as shares of the peak, S in such "
    "shares times steps",
    differs="falls that lie about equally far back are merged; the paper sums over every step",
)

FORMS = (ANNEALING, MULTI_POWER)
