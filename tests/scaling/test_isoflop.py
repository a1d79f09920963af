"""Which valleys are used, and which are left out with a reason."""

import numpy as np
import pytest
from known_runs import chinchilla_loss, isoflop_grid, runs_table

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.approaches.isoflop import fit_isoflop, method_bias
from gptjax.scaling.laws import verdict
from gptjax.scaling.laws.saved import Laws

CONFIG = scaling.FitConfig(starts=8, resamples=100)


def valleys_after(change):
    table = runs_table()
    change(table)
    return fit_isoflop(scaling.prepare(table), CONFIG).valleys


def test_a_valley_without_an_inner_minimum_is_left_out():
    def slope(table):
        first = table["budget"] == table["budget"].min()
        table["loss"] = np.where(first, 3 + 0.1 * np.log(table["params"] / 1e7), table["loss"])

    valleys = valleys_after(slope)
    assert "minimum" in valleys[0].reason
    assert not any(valley.reason for valley in valleys[1:])


def test_a_hill_is_no_valley():
    def hill(table):
        first = np.flatnonzero(table["budget"] == table["budget"].min())
        size = np.log(table["params"][first])
        table["loss"][first] = 3 - 0.1 * (size - size.mean()) ** 2

    assert "curves down" in valleys_after(hill)[0].reason


def test_four_sizes_are_too_few():
    table = {n: v[2:] if isinstance(v, list) else v[3:] for n, v in runs_table().items()}
    table["cell"] = table["cell"][1:]
    valleys = fit_isoflop(scaling.prepare(table), CONFIG).valleys
    assert "5 are needed" in valleys[0].reason


def test_sizes_far_from_the_minimum_are_dropped_with_a_reason():
    budget, params, tokens = isoflop_grid(sizes=11)
    params, tokens = params.copy(), tokens.copy()
    params[0], tokens[0] = params[0] / 20, tokens[0] * 20
    table = {"budget": budget, "flops": budget, "params": params, "tokens": tokens}
    table["loss"] = chinchilla_loss(params, tokens)
    valley = fit_isoflop(scaling.prepare(table), CONFIG).valleys[0]
    assert not valley.used[0] and "factor 4" in valley.reasons[0]
    assert not valley.reason


def test_one_valley_is_no_line():
    table = runs_table(budgets=1)
    with pytest.raises(UserError, match="two usable valleys"):
        fit_isoflop(scaling.prepare(table), CONFIG)


def wide_valleys():
    """Eighteen sizes a budget over a factor of 300, too wide for one parabola."""
    rows = []
    for budget in (1e18, 4e18, 1.6e19, 6.4e19):
        best = 0.1 * (budget / 6) ** 0.5
        for u in np.linspace(-2.2, 3.6, 18):
            loss = 3 * (budget / 1e18) ** -0.05 * np.exp(0.02 * (np.exp(0.9 * u) - 0.9 * u))
            rows.append((budget, best * np.exp(u), loss))
    budget, params, loss = np.array(rows).T
    tokens = budget / 6 / params
    return {"budget": budget, "flops": budget, "params": params, "tokens": tokens, "loss": loss}


def test_the_search_begins_at_the_lowest_run():
    law = fit_isoflop(scaling.prepare(wide_valleys()), CONFIG)
    assert len(law.used) == 4
    for found in law.used:
        assert found.params == pytest.approx(0.1 * (found.budget / 6) ** 0.5, rel=0.02)


def test_a_lopsided_valley_gets_a_cubic_and_an_even_one_a_parabola():
    assert fit_isoflop(scaling.prepare(wide_valleys()), CONFIG).degree == 3
    table = wide_valleys()
    u = np.log(table["params"] / (0.1 * (table["budget"] / 6) ** 0.5))
    noise = 1e-3 * np.random.default_rng(0).standard_normal(len(u))
    table["loss"] = 3 * np.exp(0.02 * u**2 + noise)
    assert fit_isoflop(scaling.prepare(table), CONFIG).degree == 2


def test_a_noisy_valley_moves_the_line_less():
    table = runs_table(budgets=6, noise=1e-4)
    worst = table["budget"] == np.unique(table["budget"])[5]
    shift = 0.02 * np.random.default_rng(3).standard_normal(len(worst))
    table["loss"] = np.where(worst, table["loss"] * np.exp(shift), table["loss"])
    law = fit_isoflop(scaling.prepare(table), scaling.FitConfig(starts=8, resamples=300))
    assert law.params.slope == pytest.approx(0.36 / 0.70, abs=0.02)


def test_the_bias_of_the_method_is_simulated_on_the_grid_of_the_runs():
    runs = scaling.prepare(runs_table(noise=0.003, seed=3))
    law = scaling.fit(runs, resamples=0, starts=4)
    found = method_bias(runs, law, CONFIG)
    assert found["true"] == pytest.approx(law.params["a"].value)
    assert found["bias"] == found["found"] - found["true"] and abs(found["bias"]) < 0.02
    clean = scaling.prepare(runs_table(noise=0.0))
    law = scaling.fit(clean, resamples=0, starts=4)
    alone = fit_isoflop(clean, CONFIG).params.slope  # noiseless: all that is off is the method
    assert method_bias(clean, law, CONFIG)["found"] == pytest.approx(alone, abs=2e-4)
    entry = {"valleys": [], "method": {"bias": -0.012, "found": 0.501, "true": 0.513}}
    notes = verdict.notes(Laws(laws={"isoflop": entry}))
    assert any("moves a by -0.012" in line and "0.513" in line for line in notes)
