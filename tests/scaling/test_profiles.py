"""What the runs cannot tell is said: profiles that stay flat to zero or infinity."""

import numpy as np
import pytest
from known_runs import TRUTH, chinchilla_loss, runs_table

from gptjax import scaling
from gptjax.errors import UserError


def test_a_profile_bounds_what_the_runs_determine_about_as_the_interval_does():
    law = scaling.fit(runs_table(noise=0.003), starts=8, resamples=400)
    for name in ("E", "alpha", "beta"):
        profile, interval = law.profile(name), law.params[name]
        assert not profile.open_below and not profile.open_above
        assert profile.low < law.values[name] < profile.high
        width = interval.high - interval.low
        assert 0.6 * width < profile.high - profile.low < 1.4 * width
        assert "bound it to" in str(profile)
    assert not any("do not bound" in warning for warning in law.warnings)


def test_a_profile_is_the_objective_with_the_parameter_held():
    """For least squares the statistic is the rise of the squares over the noise's variance."""
    law = scaling.fit(runs_table(noise=0.003), starts=8, resamples=0, loss_kind="squares_log")
    profile = law.profile("E", points=4)
    held = scaling.fit(
        runs_table(noise=0.003), resamples=0, loss_kind="squares_log", e_fixed=profile.values[-3]
    )
    variance = np.sum(law.residuals**2) / (35 - 5)
    rise = 2 * (held.certificate.objective - law.certificate.objective) / variance
    assert profile.rise[-3] == pytest.approx(rise, rel=1e-6)


def test_a_law_without_irreducible_loss_is_said_not_to_bound_it_from_below():
    table = runs_table(noise=0.01)
    power_laws = chinchilla_loss(table["params"], table["tokens"]) - TRUTH["E"]
    scatter = table["loss"] / chinchilla_loss(table["params"], table["tokens"])
    table["loss"] = power_laws * scatter
    law = scaling.fit(table, starts=8, resamples=0)
    profile = law.profile("E")
    assert profile.open_below and profile.low == 0.0 and np.isfinite(profile.high)
    assert str(profile) == "E: the runs do not bound it from below"
    found = [warning for warning in law.warnings if "do not bound E from below" in warning]
    assert len(found) == 1 and "e_fixed" in found[0] and "\n" not in found[0]


def test_parameters_that_trade_against_each_other_are_said_to():
    """One factor of two between the sizes: size and data can hardly be told apart."""
    size, data = np.meshgrid(np.geomspace(1e8, 1.02e8, 4), np.geomspace(1e10, 1.02e10, 4))
    size, data = size.ravel(), data.ravel()
    loss = chinchilla_loss(size, data) * np.exp(1e-6 * np.random.default_rng(0).normal(size=16))
    law = scaling.fit({"params": size, "tokens": data, "loss": loss}, starts=8, resamples=0)
    assert law.certificate.condition_number > 1e5
    assert any("can be traded for each other" in warning for warning in law.warnings)


def test_a_profile_of_what_is_not_fitted_is_refused():
    law = scaling.fit(runs_table(noise=0.003), starts=8, resamples=0, e_fixed=1.7)
    with pytest.raises(UserError, match="fits no E"):
        law.profile("E")
