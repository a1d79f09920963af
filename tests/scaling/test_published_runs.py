"""Optima that others found on published runs."""

import itertools

import numpy as np
import pytest
from known_runs import published
from scipy import optimize

from gptjax import scaling
from gptjax.scaling.fit import engine

ROWS = {
    "chinchilla_subset/runs.csv": (234, ("C", "N", "D", "loss")),
    "gadre/runs.csv": (104, ("N", "D", "tok_mult", "loss_c4_val", "dataset_name")),
    "muennighoff/datablations_fit182.csv": (182, ("params", "tokens", "unique_tokens", "val_loss")),
    "muennighoff/datablations_runs.csv": (296, ("params", "tokens", "unique_tokens", "val_loss")),
}


@pytest.mark.parametrize("name", ROWS)
def test_published_tables_have_the_rows_and_columns_that_are_told(name):
    rows, columns = ROWS[name]
    table = scaling.Table.read(published(name))
    assert len(table) == rows
    assert set(columns) <= set(table.columns)


def test_chinchilla_subset_reaches_the_known_optimum_from_every_start():
    law = scaling.fit(published("chinchilla_subset/runs.csv"), starts=60, resamples=200)
    assert law.runs.flops == pytest.approx(6 * law.runs.params * law.runs.tokens, rel=1e-3)
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


GADRE = {
    "c4_original": {"E": 1.508, "x": 0.2425},
    "rpj": {"E": 1.837, "x": 0.2729},
    "rw_original": {"E": 1.735, "x": 0.2544},
}
# Of the predicted loss at 6.9B; the law is as told, and yet the error is below one percent for
# RedPajama only, the case that the paper shows.
ERROR_7B = {"c4_original": 0.0430, "rpj": 0.0073, "rw_original": 0.0162}


def five_runs(dataset):
    """The runs of one training set and which of them the paper fits."""
    config = scaling.FitConfig(column_loss="loss_c4_val", where=f"dataset_name={dataset}")
    runs = scaling.prepare(published("gadre/runs.csv"), config)
    ratio, small = runs.columns["tok_mult"], runs.params < 5e8
    return runs, (np.isclose(ratio, 20) & small) | ((runs.params < 2e7) & (ratio == 320))


def scipy_gadre(params, tokens, loss):
    """The authors' least squares by another optimizer: E, a, b, x of the best of their starts."""

    def residual(p, n=params, d=tokens):
        return p[0] + p[1] * n ** -p[3] + p[2] * 6 ** (-p[3] / 2) * d ** -p[3] - loss

    grid = itertools.product((0.0, 1.0, 2.0), (1e2, 1e3), (1e2, 1e3), (0.1, 0.3))
    found = [
        optimize.least_squares(residual, start, x_scale="jac", max_nfev=4000) for start in grid
    ]
    return min(found, key=lambda one: one.cost).x


@pytest.mark.parametrize("dataset", GADRE)
def test_gadre_predicts_large_runs_from_the_five_small_ones_of_the_paper(dataset):
    runs, five = five_runs(dataset)
    assert five.sum() == 5
    law = scaling.fit(runs.take(five), "gadre", loss_kind="squares", starts=8, resamples=0)
    for name, value in GADRE[dataset].items():
        assert law.values[name] == pytest.approx(value, abs=6e-4), name
    error = np.abs(law.predict(runs.params, runs.tokens)[0] / runs.loss - 1)
    ratio = runs.columns["tok_mult"]
    assert error[(runs.params > 6e9) & (ratio == 20)] == pytest.approx(ERROR_7B[dataset], abs=2e-4)
    assert error[(runs.params > 1e9) & (runs.params < 2e9) & (ratio == 20)] < 0.01
    assert dataset != "rpj" or np.all(error[runs.params > 1e9] < 0.01)


@pytest.mark.parametrize("dataset", GADRE)
def test_the_error_of_gadre_at_7b_is_that_of_the_published_protocol(dataset):
    """SciPy gives the same law from the same five runs: no other fit of them predicts better."""
    runs, five = five_runs(dataset)
    theirs = scipy_gadre(runs.params[five], runs.tokens[five], runs.loss[five])
    values = dict(zip(("E", "a", "b", "x"), theirs, strict=True))
    largest = int(np.argmax(runs.params))
    at = {"params": runs.params[largest], "tokens": runs.tokens[largest]}
    predicted = float(engine.predict(scaling.form_named("gadre"), values, at))
    error = predicted / runs.loss[largest] - 1
    assert abs(error) == pytest.approx(ERROR_7B[dataset], abs=2e-4)
    # C4's own 7B run is worse than its small runs promise, also with the 1.4B run in the fit.
    if dataset == "c4_original":
        more = five | ((runs.params > 1e9) & (runs.params < 2e9) & (runs.columns["tok_mult"] == 20))
        theirs = scipy_gadre(runs.params[more], runs.tokens[more], runs.loss[more])
        values = dict(zip(("E", "a", "b", "x"), theirs, strict=True))
        again = float(engine.predict(scaling.form_named("gadre"), values, at))
        assert again / runs.loss[largest] - 1 == pytest.approx(-0.030, abs=1e-3)


def test_muennighoff_has_a_better_optimum_than_the_published_one_in_a_flat_valley():
    exponent = 0.3526596
    frozen = {"A": np.exp(6.255414), "B": np.exp(7.3049974), "E": np.exp(0.6254804)}
    form = scaling.form_named("muennighoff").fix(**frozen, alpha=exponent, beta=exponent)
    law = scaling.fit(
        published("muennighoff/datablations_fit182.csv"), form, starts=8, resamples=200
    )
    printed = np.log([[15.39, 5.31]])
    known = engine.objective(
        law.problem, printed, law.problem.weights[None], law.problem.target[None]
    )
    assert known[0] == pytest.approx(0.015826, abs=5e-7)
    assert law.certificate.objective == pytest.approx(0.015805, abs=5e-7)
    assert law.values["R_D"] == pytest.approx(95.4, rel=2e-3)
    assert law.values["R_N"] == pytest.approx(1.71, rel=5e-3)
    assert law.params["R_D"].high > 1e4
    assert any("do not bound R_D from above" in warning for warning in law.warnings)
