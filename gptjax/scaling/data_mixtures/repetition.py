"""The repetition term: tokens that are read again are worth less than new ones.

r′ = (U/D)·(1 + R*·(1 − exp(−(e − 1)/R*))) where a share r of D tokens reads a source of U tokens
e = r·D/U > 1 times, else r′ = r: Muennighoff et al., "Scaling Data-Constrained Language Models"
(2023), equation 5, with R* = 15.39 there. R* is fitted; log R* is the first parameter.
"""

import dataclasses

import numpy as np

from gptjax.errors import UserError
from gptjax.scaling.data_mixtures.forms import EFFECTIVE_DATA, MixtureForm

FIRST = (3.0, 15.39)
"""Where R* begins."""
LIMITS = (-4.0, 8.0)
"""Of log R*: the data say nothing beyond."""


def repeated(form: MixtureForm, caps_K: np.ndarray) -> MixtureForm:
    """`form` of the shares' worth r′; `caps_K` are U/D, the shares that read each source once.

    Raises:
      UserError: for a form that reads shares as parts of a whole, which r′ are not.
    """
    if form.name != EFFECTIVE_DATA.name:
        raise UserError(
            f"mixture_law.form={form.name} reads shares that sum to 1, and a repetition term makes "
            f"them less; set mixture_law.form={EFFECTIVE_DATA.name}"
        )
    caps_K = np.asarray(caps_K, float)

    def over(theta: np.ndarray, weights_RK: np.ndarray) -> tuple[float, np.ndarray]:
        """R*, and the epochs beyond the first."""
        worth = float(np.exp(np.clip(theta[0], *LIMITS)))
        return worth, np.maximum(weights_RK / caps_K - 1.0, 0.0)

    def worths(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        worth, more_RK = over(theta, weights_RK)
        first_RK = np.minimum(weights_RK, caps_K)
        return first_RK + caps_K * worth * -np.expm1(-more_RK / worth)

    def value(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        return form.value(theta[1:], worths(theta, weights_RK))

    def by_theta(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        worth, more_RK = over(theta, weights_RK)
        inner_RK = worths(theta, weights_RK)
        left_RK = np.exp(-more_RK / worth)
        by_log_RK = caps_K * (worth * (1 - left_RK) - more_RK * left_RK)
        by_log_RK = by_log_RK * (LIMITS[0] < theta[0] < LIMITS[1])
        slope_RK = form.by_weights(theta[1:], inner_RK)
        return np.c_[(slope_RK * by_log_RK).sum(1), form.by_theta(theta[1:], inner_RK)]

    def by_weights(theta: np.ndarray, weights_RK: np.ndarray) -> np.ndarray:
        worth, more_RK = over(theta, weights_RK)
        slope_RK = form.by_weights(theta[1:], worths(theta, weights_RK))
        return slope_RK * np.exp(-more_RK / worth)

    def starts(weights_RK: np.ndarray, losses_R: np.ndarray) -> list[np.ndarray]:
        found = []
        for worth in FIRST:
            inner = worths(np.array([np.log(worth)]), weights_RK)
            found += [np.r_[np.log(worth), theta] for theta in form.starts(inner, losses_R)]
        return found

    return dataclasses.replace(
        form,
        equation=f"{form.equation} with r_i what they are worth read again, R* = exp(θ_0)",
        count=lambda sources: form.count(sources) + 1,
        value=value,
        by_theta=by_theta,
        by_weights=by_weights,
        starts=starts,
    )
