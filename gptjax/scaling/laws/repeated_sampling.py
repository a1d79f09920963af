"""Laws of repeated sampling: the share of questions solved, against samples and model size.

Two forms, each with the model's parameters N and k samples of every question:

- `beta`: each question is solved by one sample with a probability of its own, beta-distributed over
  questions (Schaeffer et al. 2025, arXiv:2502.17578): c(k) = 1 − B(a, b + k)/B(a, b). Here the mean
  a/(a + b) and the concentration a + b follow the size, logit mean = m + s ln N and
  ln(a + b) = l + t ln N, by maximum likelihood of the counts.
- `power`: −ln c = A N^−α k^−β, the power law of Brown et al. (2024, arXiv:2407.21787, section 3.1)
  with a factor for the size; a plane in ln(−ln c), by weighted least squares.

Each is judged by what it was not shown: the coverage of all samples from a quarter of them, and
that of the largest model from the smaller ones.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from gptjax.errors import UserError

LEAST, MOST = 0.02, 0.98
"""Coverages that `power` is fitted to: outside, ln(−ln c) is mostly noise."""


class Law(Protocol):
    """A fitted form."""

    @property
    def values(self) -> dict[str, float]:
        """Its parameters by name."""

    def coverage(self, params: Any, samples: Any) -> np.ndarray:
        """The share of questions that so many samples of a model of that size solve."""


@dataclasses.dataclass(frozen=True)
class Beta:
    """The form `beta`; sizes are counted from e^`centre`."""

    mean: float
    mean_slope: float
    concentration: float
    concentration_slope: float
    centre: float

    @property
    def values(self) -> dict[str, float]:
        """m and l at N = 1, s and t."""
        return {
            "m": self.mean - self.mean_slope * self.centre,
            "s": self.mean_slope,
            "l": self.concentration - self.concentration_slope * self.centre,
            "t": self.concentration_slope,
        }

    def shapes(self, params: Any) -> tuple[np.ndarray, np.ndarray]:
        """(a, b) of the sizes."""
        x = np.log(np.asarray(params, float)) - self.centre
        total = np.exp(np.clip(self.concentration + self.concentration_slope * x, -12.0, 12.0))
        logit = np.clip(self.mean + self.mean_slope * x, -30.0, 30.0)
        return total / (1.0 + np.exp(-logit)), total / (1.0 + np.exp(logit))

    def coverage(self, params: Any, samples: Any) -> np.ndarray:
        """1 − B(a, b + k)/B(a, b)."""
        from scipy.special import betaln

        a, b = self.shapes(params)
        return np.asarray(-np.expm1(betaln(a, b + samples) - betaln(a, b)))


@dataclasses.dataclass(frozen=True)
class Power:
    """The form `power`."""

    A: float
    alpha: float
    beta: float

    @property
    def values(self) -> dict[str, float]:
        """A, alpha and beta."""
        return dataclasses.asdict(self)

    def coverage(self, params: Any, samples: Any) -> np.ndarray:
        """exp(−A N^−α k^−β)."""
        n, k = np.asarray(params, float), np.asarray(samples, float)
        return np.exp(-self.A * n**-self.alpha * k**-self.beta)


def fit_beta(params: Sequence[float], right_SQ: np.ndarray, samples: int) -> Beta:
    """`beta` from the right ones among so many samples of each question by each model."""
    from scipy.optimize import minimize
    from scipy.special import betaln

    log_n = np.log(np.asarray(params, float))
    centre = float(log_n.mean())
    counts = np.arange(samples + 1)
    seen_Sc = np.stack([np.bincount(row, minlength=samples + 1) for row in right_SQ])
    n_S = np.asarray(params, float)

    def law(x: np.ndarray) -> Beta:
        return Beta(float(x[0]), float(x[1]), float(x[2]), float(x[3]), centre)

    def surprise(x: np.ndarray) -> float:
        a_S1, b_S1 = (shape[:, None] for shape in law(x).shapes(n_S))
        log_Sc = betaln(a_S1 + counts, b_S1 + samples - counts) - betaln(a_S1, b_S1)
        return -float((seen_Sc * log_Sc).sum()) / right_SQ.size

    share_S = np.clip(right_SQ.mean(axis=1) / samples, 1e-4, 1 - 1e-4)
    slope, middle = np.polyfit(log_n - centre, np.log(share_S / (1 - share_S)), 1)
    found = minimize(surprise, np.array([middle, slope, 1.0, 0.0]), method="BFGS")
    return law(found.x)


def fit_power(params: Sequence[float], samples: Sequence[int], coverage_SK: np.ndarray) -> Power:
    """`power` from coverages, each weighted as a share of as many questions.

    Raises:
      UserError: for fewer than four coverages between 2 % and 98 %, of two sizes and two numbers of
        samples.
    """
    kept_SK = (coverage_SK > LEAST) & (coverage_SK < MOST)
    _check(kept_SK)
    log_n, log_k = np.log(np.asarray(params, float)), np.log(np.asarray(samples, float))
    design = np.stack(np.broadcast_arrays(1.0, -log_n[:, None], -log_k[None, :]), axis=-1)[kept_SK]
    c = coverage_SK[kept_SK]
    weight = -np.log(c) * np.sqrt(c / (1.0 - c))  # 1 / the scatter of ln(−ln c)
    found = np.linalg.lstsq(design * weight[:, None], np.log(-np.log(c)) * weight, rcond=None)[0]
    return Power(math.exp(found[0]), float(found[1]), float(found[2]))


def coverage_of(right_SQ: np.ndarray, samples: int, counts: Sequence[int]) -> np.ndarray:
    """coverage_SK without bias: 1 − C(n − c, k)/C(n, k), by question (Chen et al. 2021).

    >>> coverage_of(np.array([[0, 2]]), 4, [1, 2]).round(4).tolist()
    [[0.25, 0.4167]]
    """
    from scipy.special import gammaln

    wrong = np.arange(samples, -1, -1)[:, None]  # by the number of right ones
    k = np.asarray(counts)[None, :]
    with np.errstate(invalid="ignore"):
        log = gammaln(wrong + 1) - gammaln(wrong - k + 1.0) + gammaln(samples - k + 1.0)
    missed_cK = np.where(wrong >= k, np.exp(log - gammaln(samples + 1)), 0.0)
    return (1.0 - missed_cK)[right_SQ].mean(axis=1)


def _beta(params: Sequence[float], right_SQ: np.ndarray, samples: int) -> Law:
    return fit_beta(params, right_SQ, samples)


def _power(params: Sequence[float], right_SQ: np.ndarray, samples: int) -> Law:
    counts = powers_of_two(samples)
    return fit_power(params, counts, coverage_of(right_SQ, samples, counts))


FORMS: dict[str, Callable[[Sequence[float], np.ndarray, int], Law]] = {
    "beta": _beta,
    "power": _power,
}


@dataclasses.dataclass(frozen=True)
class RepeatedSampling:
    """The form that predicts better, with intervals over resampled questions.

    Attributes:
      form: its name.
      law: fitted to everything.
      low, high: 95 % intervals of its values.
      errors: by form the mean |error| of coverages it was not shown: of `samples`, of `size`.
    """

    form: str
    law: Law
    low: dict[str, float]
    high: dict[str, float]
    errors: dict[str, dict[str, float]]


def fit_repeated_sampling(
    params: Sequence[float],
    right_SQn: np.ndarray,
    *,
    resamples: int = 200,
    seed: int = 0,
) -> RepeatedSampling:
    """The laws of S models on Q questions, compared, and the better one.

    Args:
      params: of the models.
      right_SQn: bool, whether a sample is right; the questions are the same for all models.
      resamples: of the questions. Seeds of training are not resampled: there is one.

    Raises:
      UserError: for fewer than three sizes or eight samples, and as `fit_power`.
    """
    order = np.argsort(params)
    params, right_SQn = [params[i] for i in order], right_SQn[order]
    S, Q, n = right_SQn.shape
    if S < 3 or n < 8:
        raise UserError(
            f"{S} sizes and {n} samples leave nothing to hold out; give 3 sizes and 8 samples, or "
            "more"
        )
    right_SQ = right_SQn.sum(axis=2)
    errors = {name: _errors(form, params, right_SQn) for name, form in FORMS.items()}
    name = min(errors, key=lambda name: sum(errors[name].values()))
    law = FORMS[name](params, right_SQ, n)
    drawn = np.random.default_rng(seed).integers(0, Q, (resamples, Q))
    many = [FORMS[name](params, right_SQ[:, rows], n) for rows in drawn]
    bounds = {
        key: np.quantile([one.values[key] for one in many], [0.025, 0.975]) for key in law.values
    }
    return RepeatedSampling(
        name,
        law,
        {key: float(low) for key, (low, _) in bounds.items()},
        {key: float(high) for key, (_, high) in bounds.items()},
        errors,
    )


def interval(each_Q: np.ndarray, resamples: int, seed: int) -> tuple[float, float, float]:
    """(mean, low, high): the mean over questions and its 95 % interval over resampled ones."""
    drawn = np.random.default_rng(seed).integers(0, len(each_Q), (resamples, len(each_Q)))
    low, high = np.quantile(each_Q[drawn].mean(axis=1), [0.025, 0.975])
    return float(each_Q.mean()), float(low), float(high)


def powers_of_two(most: int) -> list[int]:
    """1, 2, 4, … up to `most`, and `most` itself.

    >>> powers_of_two(6)
    [1, 2, 4, 6]
    """
    return sorted({1 << i for i in range(most.bit_length())} | {most})


def _errors(
    form: Callable[..., Law], params: Sequence[float], right_SQn: np.ndarray
) -> dict[str, float]:
    """Mean |error| of coverage at all samples from a quarter of them; of the largest size."""
    n = right_SQn.shape[2]
    right_SQ = right_SQn.sum(axis=2)
    few = form(params, right_SQn[:, :, : n // 4].sum(axis=2), n // 4)
    ahead_S = coverage_of(right_SQ, n, [n])[:, 0]
    small = form(params[:-1], right_SQ[:-1], n)
    counts = powers_of_two(n)
    largest_K = coverage_of(right_SQ[-1:], n, counts)[0]
    return {
        "samples": float(np.abs(few.coverage(params, n) - ahead_S).mean()),
        "size": float(np.abs(small.coverage(params[-1], np.array(counts)) - largest_K).mean()),
    }


def _check(kept: np.ndarray) -> None:
    if kept.sum() < 4 or kept.any(axis=1).sum() < 2 or kept.any(axis=0).sum() < 2:
        raise UserError(
            f"{kept.sum()} shares of solved questions are between {LEAST:.0%} and {MOST:.0%}, and "
            "a law of samples and sizes needs four, of two sizes and two numbers of samples; give "
            "questions of another difficulty"
        )
