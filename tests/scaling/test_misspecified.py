"""Intervals where Chinchilla's form is wrong: real coverage far beyond the data, false alarms.

    pytest -m slow tests/scaling/test_misspecified.py -s

prints, for each truth, the share of tables whose interval of L_opt held the truth at 10, 30 and 100
times the largest budget, by the form chinchilla and by the mixture, the median of the mixture's
width over chinchilla's, and how often lack of fit was found.
"""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.scaling.approaches.mixture import akaike_weights, mix, mixed
from gptjax.scaling.fit.fit import fit_runs
from gptjax.scaling.fit.misfit import lack_of_fit, undetected
from gptjax.scaling.laws import verdict
from gptjax.scaling.laws.saved import Laws

FAR = (10.0, 30.0, 100.0)
TABLES = 12


def chinchilla(n, d):
    return 1.7 + 400 * n**-0.34 + 1200 * d**-0.36


def farseer(n, d):
    exponent = np.exp(-0.02 * n**0.12 - 1.0)
    return np.exp(2.5 * n**-0.15 + 0.5) + np.exp(12.2 * n**-0.1 + 3.8) * d**-exponent


def interaction(n, d):
    return chinchilla(n, d) + 40 * (n**-0.34 * d**-0.36) ** 0.4


def kaplan(n, d):
    return ((8.8e13 / n) ** (0.076 / 0.095) + 5.4e13 / d) ** 0.095


def power_mean(n, d):
    return (1.4**2 + (30 * n**-0.17) ** 2 + (60 * d**-0.19) ** 2) ** 0.5


def drifting(n, d):
    return 1.6 + 60 * n ** -(0.18 + 0.004 * np.log(n / 1e8)) + 1200 * d**-0.36


def broken(n, d):
    return 1.5 + 400 * n**-0.32 * (1 + (n / 2e9) ** 1.5) ** 0.03 + 1000 * d**-0.34


def tied(n, d):
    return 1.8 + 300 * n**-0.3 + 500 * d**-0.3


TRUTHS = (chinchilla, farseer, interaction, kaplan, power_mean, drifting, broken, tied)


def optimum(truth, flops):
    """(N, L) of the best split of a budget."""
    size = np.geomspace(1e5, 1e14, 20_000)
    loss = truth(size, flops / 6 / size)
    return size[np.argmin(loss)], loss.min()


def table(truth, seed, noise=0.003):
    """Five budgets, seven sizes around the truth's own best."""
    rng = np.random.default_rng(seed)
    rows = []
    for flops in np.geomspace(1e18, 1e20, 5):
        for size in optimum(truth, flops)[0] * np.geomspace(0.25, 4.0, 7):
            loss = truth(size, flops / 6 / size) * np.exp(noise * rng.standard_normal())
            rows.append((flops, size, flops / 6 / size, loss))
    return dict(zip(("flops", "params", "tokens", "loss"), np.array(rows).T, strict=True))


def measured(truth, tables):
    """(hits of chinchilla, hits of the mixture, width ratios, misfits found)."""
    config = scaling.FitConfig(resamples=200, starts=16)
    hits, widths, misfits = [], [], []
    for seed in range(tables):
        runs = scaling.prepare(table(truth, seed), config)
        law = scaling.fit(runs, config=config)
        mixed = mix(runs, law, config)
        misfits.append(lack_of_fit(law).found)
        for far in FAR:
            flops, own = 1e20 * far, law.optimum(1e20 * far).loss
            found, right = mixed.at(flops), optimum(truth, flops)[1]
            hits.append(
                (own.low <= right <= own.high, found["loss_low"] <= right <= found["loss_high"])
            )
            widths.append((found["loss_high"] - found["loss_low"]) / (own.high - own.low))
    shares = np.array(hits).reshape(tables, len(FAR), 2).mean(0).T
    return shares[0], shares[1], float(np.median(widths)), float(np.mean(misfits))


@pytest.mark.slow
@pytest.mark.parametrize("truth", TRUTHS, ids=lambda truth: truth.__name__)
def test_intervals_hold_the_truth_of_other_forms(truth):
    own, mixed, width, misfit = measured(truth, TABLES)
    print(
        f"{truth.__name__:12s} chinchilla {np.round(own, 2)} mixture {np.round(mixed, 2)} "
        f"width x{width:.2f} misfit {misfit:.2f}"
    )
    assert mixed.min() >= 0.75


def test_structure_is_found_where_it_is_and_not_where_it_is_not():
    config = scaling.FitConfig(resamples=0, starts=4)
    found = {
        truth.__name__: [
            lack_of_fit(scaling.fit(table(truth, seed), config=config)).found for seed in range(4)
        ]
        for truth in (chinchilla, kaplan)
    }
    assert sum(found["chinchilla"]) <= 1
    assert all(found["kaplan"])


def test_a_form_that_describes_the_runs_better_has_the_weight():
    config = scaling.FitConfig(resamples=0, starts=4)
    runs = scaling.prepare(table(kaplan, 0))
    fits = [scaling.fit(runs, form, config=config) for form in ("chinchilla", "kaplan_nd")]
    weights = akaike_weights(fits)
    assert weights[1] > 0.95 and weights.sum() == pytest.approx(1)


def test_nine_runs_do_not_leave_out_a_form_by_their_number_alone():
    config = scaling.FitConfig(resamples=0, starts=4, diagnostics=False)
    runs = scaling.prepare(table(chinchilla, 0))
    few = runs.take(np.arange(len(runs)) % 4 == 0)
    fits = [
        fit_runs(few, scaling.form_named(n), config, quick=True) for n in ("chinchilla", "gadre")
    ]
    assert len(few) == 9 and akaike_weights(fits)[0] > 0.05


def test_exact_runs_weigh_the_form_that_made_them():
    config = scaling.FitConfig(resamples=0, starts=4)
    runs = scaling.prepare({**table(chinchilla, 0, 0.0), "loss_stderr": np.full(35, 0.001)})
    names = ("gadre", "kaplan_nd", "power_mean", "chinchilla")
    weights = akaike_weights([scaling.fit(runs, name, config=config) for name in names])
    assert weights[3] > 0.75 and weights[:2].max() < 1e-6


def test_forms_without_a_finite_forecast_give_no_number():
    nothing = dict.fromkeys(("params", "tokens", "loss"), (np.nan, np.full(30, np.nan)))
    entry = mixed([nothing], (1.0,), 0.95, 20)
    assert all(np.isnan(value) for value in entry.values())
    known = {name: (2.0, np.linspace(1.5, 2.5, 101)) for name in ("params", "tokens", "loss")}
    entry = mixed([nothing, known], (0.9, 0.1), 0.95, 1e9)
    assert entry["loss"] == pytest.approx(2.0)
    assert 1.5 <= entry["loss_low"] < 1.6 and 2.4 < entry["loss_high"] <= 2.5


def test_what_the_tests_would_miss_grows_with_noise_and_distance():
    config = scaling.FitConfig(resamples=0, starts=4, loss_kind="squares_log")
    quiet, noisy = (
        scaling.fit(table(chinchilla, 0, noise), config=config) for noise in (0.0003, 0.003)
    )
    shares = [undetected(noisy, flops) for flops in (1e20, 1e21, 1e22)]
    assert 0 < shares[0] < shares[1] < shares[2] < 0.05
    assert undetected(quiet, 1e21) == pytest.approx(shares[1] / 10, rel=0.1)


def test_the_limit_of_the_tests_is_a_note():
    missed = {"flops": 1e21, "relative": 0.021}
    entry = {"lack_of_fit": {"p": 0.5, "found": False, "undetected": missed}}
    laws = Laws(laws={"chinchilla_parametric": entry})
    assert any("by up to 2.1%" in line for line in verdict.notes(laws))
    entry["lack_of_fit"]["found"] = True
    assert not any("by up to" in line for line in verdict.notes(laws))


def test_structure_in_the_residuals_widens_the_mixture():
    known = {name: (2.0, np.linspace(1.5, 2.5, 101)) for name in ("params", "tokens", "loss")}
    plain, wide = (mixed([known], (1.0,), 0.95, 1e9, widening) for widening in (1.0, 2.0))
    ratio = np.log(wide["loss_high"] / wide["loss"]) / np.log(plain["loss_high"] / plain["loss"])
    assert ratio == pytest.approx(2.0)
    law = scaling.fit(table(kaplan, 0), resamples=0, starts=4)
    assert lack_of_fit(law).widening == 3.0
