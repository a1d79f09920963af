"""The fit of a law of mixtures: least squares, the form chosen by cross-validation, resamples."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.data_mixtures.forms import EFFECTIVE_DATA, MIXTURE_FORMS, MixtureForm
from gptjax.scaling.data_mixtures.repetition import repeated
from gptjax.scaling.data_mixtures.size_term import sized

EVALUATIONS = 200
REFIT_EVALUATIONS = 40
TOLERANCE = 1e-8


@dataclasses.dataclass(frozen=True)
class Score:
    """How well a form predicts runs that it was not fitted to.

    Attributes:
      error: root mean square of measured − predicted, in nats.
      rank: Spearman's correlation of the two.
      predicted: of every run, by the fit that did not see it.
    """

    error: float
    rank: float
    predicted: np.ndarray


@dataclasses.dataclass(frozen=True)
class MixtureLaw:
    """A form fitted to runs.

    Attributes:
      theta: its parameters.
      resamples: (B, p) of refits to runs that were drawn with replacement.
      scores: cross-validation of each form that was tried, by name.
      reference: N0 of the size term; 0 without one.
    """

    form: MixtureForm
    sources: tuple[str, ...]
    theta: np.ndarray
    residuals: np.ndarray
    resamples: np.ndarray
    scores: dict[str, Score]
    reference: float = 0.0

    @property
    def score(self) -> Score:
        """The cross-validation of the form."""
        return self.scores[self.form.name]

    def inputs(self, weights_RK: Any, params: Any = None) -> np.ndarray:
        """What the form reads: weights, and the size where there is a size term."""
        weights_RK = np.atleast_2d(np.asarray(weights_RK, float))
        if not self.reference:
            return weights_RK
        params = self.reference if params is None else params
        logs = np.log(np.broadcast_to(np.asarray(params, float), len(weights_RK)) / self.reference)
        return np.c_[weights_RK, logs]

    def predict(self, weights_RK: Any, params: Any = None) -> np.ndarray:
        """Losses of R mixtures, at the sizes `params` where the law has a size term."""
        return self.form.value(self.theta, self.inputs(weights_RK, params))


def fit_mixtures(
    weights_RK: Any,
    losses_R: Any,
    sources: Sequence[str] = (),
    *,
    params: Any = None,
    once: Any = None,
    form: str = "auto",
    folds: int = 8,
    resamples: int = 200,
    seed: int = 0,
) -> MixtureLaw:
    """The law of losses by mixture.

    Args:
      weights_RK: R mixtures of K sources; rows sum to 1.
      losses_R: nats per token of the runs.
      params: sizes of the models; with several a size term is fitted.
      once: the share of a run that reads each source once, for a repetition term; None: without.
      form: a name in MIXTURE_FORMS; auto = the smallest error in cross-validation, and with a
        repetition term the one that can have it.

    Raises:
      UserError: for fewer runs than the form has parameters, and losses that no law can have.
    """
    weights_RK, losses_R = np.asarray(weights_RK, float), np.asarray(losses_R, float)
    names = tuple(sources) or tuple(f"source {i + 1}" for i in range(weights_RK.shape[1]))
    inputs, reference = _inputs(weights_RK, params)
    _check(weights_RK, losses_R)
    every = [*MIXTURE_FORMS] if once is None else [EFFECTIVE_DATA.name]
    tried = every if form == "auto" else [form]
    forms = {name: _form(name, reference, once) for name in tried}
    rng = np.random.default_rng(seed)
    fold_R = rng.permutation(len(losses_R)) % folds
    scores = {
        name: _cross_validated(one, inputs, losses_R, fold_R)
        for name, one in forms.items()
        if one.count(len(names)) < len(losses_R) * (1 - 1 / folds)
    }
    if not scores:
        least = min(one.count(len(names)) for one in forms.values())
        raise UserError(
            f"{len(losses_R)} mixtures of {len(names)} sources are too few for a law of {least} "
            f"numbers; give at least {3 * len(names)}"
        )
    best = forms[min(scores, key=lambda name: scores[name].error)]
    theta = _fitted(best, inputs, losses_R)
    drawn = [_refit(best, inputs, losses_R, theta, rng) for _ in range(resamples)]
    refits = np.array([one for one in drawn if np.isfinite(one).all()]).reshape(-1, len(theta))
    residuals = losses_R - best.value(theta, inputs)
    return MixtureLaw(best, names, theta, residuals, refits, scores, reference)


def replanned(law: MixtureLaw, once: Any) -> MixtureLaw:
    """A law with a repetition term for a run whose sources are read once at other shares."""
    return dataclasses.replace(law, form=_form(law.form.name, law.reference, once))


def _form(name: str, reference: float, once: Any) -> MixtureForm:
    form = MIXTURE_FORMS[name]
    form = form if once is None else repeated(form, once)
    return sized(form) if reference else form


def _inputs(weights_RK: np.ndarray, params: Any) -> tuple[np.ndarray, float]:
    """Weights, with the log of the relative size where sizes differ, and N0."""
    if params is None or len(np.unique(params)) < 2:
        return weights_RK, 0.0
    logs = np.log(np.asarray(params, float))
    return np.c_[weights_RK, logs - logs.mean()], float(np.exp(logs.mean()))


def _check(weights_RK: np.ndarray, losses_R: np.ndarray) -> None:
    if weights_RK.shape != (len(losses_R), weights_RK.shape[1]):
        raise UserError(
            f"{len(weights_RK)} mixtures and {len(losses_R)} losses do not belong together; give "
            "one loss for each mixture"
        )
    bad = ~(np.isfinite(losses_R) & (losses_R > 0))
    if bad.any():
        row = int(np.argmax(bad))
        raise UserError(
            f"mixture {row + 1} has the loss {losses_R[row]}; a loss is a number above 0, correct "
            "it or leave the run out"
        )


def _fitted(form: MixtureForm, inputs: np.ndarray, losses_R: np.ndarray) -> np.ndarray:
    """The best of the fits from all starts."""
    found = [
        _descend(form, inputs, losses_R, start, EVALUATIONS)
        for start in form.starts(inputs, losses_R)
    ]
    return min(found, key=lambda one: one[1])[0]


def _descend(
    form: MixtureForm, inputs: np.ndarray, losses_R: np.ndarray, start: np.ndarray, most: int
) -> tuple[np.ndarray, float]:
    """(theta, sum of squares); infinite where the fit broke down."""
    from scipy.optimize import least_squares  # slow to import

    try:
        with np.errstate(all="ignore"):
            found = least_squares(
                lambda theta: form.value(theta, inputs) - losses_R,
                start,
                jac=lambda theta: form.by_theta(theta, inputs),
                x_scale="jac",
                ftol=TOLERANCE,
                max_nfev=most,
            )
    except (ValueError, np.linalg.LinAlgError):
        return np.full(len(start), np.nan), np.inf
    return found.x, float(found.cost)


def _refit(
    form: MixtureForm,
    inputs: np.ndarray,
    losses_R: np.ndarray,
    theta: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    rows = rng.integers(0, len(losses_R), len(losses_R))
    return _descend(form, inputs[rows], losses_R[rows], theta, REFIT_EVALUATIONS)[0]


def _cross_validated(
    form: MixtureForm, inputs: np.ndarray, losses_R: np.ndarray, fold_R: np.ndarray
) -> Score:
    predicted = np.full(len(losses_R), np.nan)
    for fold in np.unique(fold_R):
        out = fold_R == fold
        theta = _fitted(form, inputs[~out], losses_R[~out])
        predicted[out] = form.value(theta, inputs[out])
    error = float(np.sqrt(np.mean((predicted - losses_R) ** 2)))
    return Score(error if np.isfinite(error) else np.inf, rank(predicted, losses_R), predicted)


def rank(predicted: np.ndarray, measured: np.ndarray) -> float:
    """Spearman's correlation; 0 where one of them is constant."""
    from scipy.stats import spearmanr  # slow to import

    if np.ptp(predicted) == 0 or np.ptp(measured) == 0:
        return 0.0
    return float(spearmanr(predicted, measured).statistic)
