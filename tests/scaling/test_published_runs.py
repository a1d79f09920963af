"""Optima that others found on published runs."""

import numpy as np
import pytest
from known_runs import published

from gptjax import scaling


def test_chinchilla_subset_reaches_the_known_optimum_from_every_start():
    law = scaling.fit(published("chinchilla_subset/runs.csv"), starts=128, resamples=200)
    assert law.certificate.objective == pytest.approx(8.400931e-4, rel=1e-6)
    known = {"A": 442.164, "B": 1271.808, "E": 1.783894, "alpha": 0.3426261, "beta": 0.3420019}
    for name, value in known.items():
        assert law.values[name] == pytest.approx(value, rel=2e-6), name
    assert law.certificate.share_at_best == 1.0
    assert law.certificate.gradient_norm < 1e-9
    assert law.resamples.failed == 0
    alpha = law.params["alpha"]
    assert 0.30 < alpha.low < alpha.value < alpha.high < 0.39
    # Hoffmann et al.'s rounded exponents lie outside the interval, as Besiroglu et al. found.
    assert not law.params["beta"].low < 0.28 < law.params["beta"].high


def test_an_optimum_of_the_published_runs_agrees_with_numeric_minimisation():
    law = scaling.fit(published("chinchilla_subset/runs.csv"), starts=16, resamples=0)
    best = law.optimum(5.76e23)
    sizes = best.params.value * np.geomspace(0.9, 1.1, 2001)
    losses = law.predict(sizes, 5.76e23 / (law.cost.kappa * sizes**law.cost.slope))[0]
    assert sizes[np.argmin(losses)] == pytest.approx(best.params.value, rel=2e-4)
