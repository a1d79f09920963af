"""The size term: one law of mixtures for models of several sizes.

L(r, N) = E + (N / N0)^-γ (f(r) − E), with f a form of mixtures and N0 the geometric mean of the
sizes: a larger model keeps the order of mixtures and comes nearer to a loss E > 0 that none goes
below. The parameters are log E, γ and those of f.
"""

import dataclasses

import numpy as np

from gptjax.scaling.data_mixtures.forms import MixtureForm

FIRST_DECAY = 0.1
FIRST_FLOOR = 0.5
"""Of the smallest loss: where E begins."""


def sized(form: MixtureForm) -> MixtureForm:
    """`form` with a size term; the last column of its weights is log(N / N0)."""

    def factors(theta: np.ndarray, inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return np.exp(-theta[1] * inputs[:, -1]), form.value(theta[2:], inputs[:, :-1])

    def value(theta: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        shrink_R, losses_R = factors(theta, inputs)
        floor = np.exp(theta[0])
        return floor + shrink_R * (losses_R - floor)

    def by_theta(theta: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        shrink_R, losses_R = factors(theta, inputs)
        floor = np.exp(theta[0])
        by_decay = -inputs[:, -1] * shrink_R * (losses_R - floor)
        inner = shrink_R[:, None] * form.by_theta(theta[2:], inputs[:, :-1])
        return np.c_[floor * (1 - shrink_R), by_decay, inner]

    def by_weights(theta: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        shrink_R, _ = factors(theta, inputs)
        return shrink_R[:, None] * form.by_weights(theta[2:], inputs[:, :-1])

    def starts(inputs: np.ndarray, losses_R: np.ndarray) -> list[np.ndarray]:
        floor = FIRST_FLOOR * losses_R.min()
        level_R = floor + (losses_R - floor) * np.exp(FIRST_DECAY * inputs[:, -1])
        inner = form.starts(inputs[:, :-1], level_R)
        return [np.r_[np.log(floor), FIRST_DECAY, theta] for theta in inner]

    return dataclasses.replace(
        form,
        equation=f"L = E + (N/N0)^-γ (f(r) − E), f: {form.equation}",
        count=lambda sources: form.count(sources) + 2,
        value=value,
        by_theta=by_theta,
        by_weights=by_weights,
        starts=starts,
    )
