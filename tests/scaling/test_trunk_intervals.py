"""Runs that share a trunk, against the analysis of variance of a textbook."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.scaling.fit import bootstrap

GROUPS, RUNS = 8, 5
MEAN = scaling.Form(
    name="mean",
    equation="L = E",
    columns=("params",),
    of_loss=False,
    parameters=(scaling.positive("E"),),
    linear=("E",),
    loss=lambda p, x: p["E"] + 0 * x["params"],
)


@pytest.fixture(scope="module")
def law():
    """A balanced one-way layout with shared luck of .3 and own of .1, fitted by its mean."""
    rng = np.random.default_rng(4)
    luck = np.repeat(0.3 * rng.standard_normal(GROUPS), RUNS)
    table = {
        "params": np.geomspace(1e6, 1e9, GROUPS * RUNS),
        "loss": 3 + luck + 0.1 * rng.standard_normal(GROUPS * RUNS),
        "trunk": [f"t{i // RUNS}" for i in range(GROUPS * RUNS)],
    }
    return scaling.fit(table, MEAN, loss_kind="squares", resamples=4000, starts=4)


def mean_squares(law):
    loss = law.runs.loss.reshape(GROUPS, RUNS)
    between = RUNS * np.sum((loss.mean(axis=1) - loss.mean()) ** 2) / (GROUPS - 1)
    within = np.sum((loss - loss.mean(axis=1, keepdims=True)) ** 2) / (GROUPS * (RUNS - 1))
    return between, within


def test_variances_are_those_of_the_analysis_of_variance(law):
    between, within = mean_squares(law)
    shared, own = bootstrap.variances(law.problem, law.theta, law.runs.group)
    assert shared.value == pytest.approx((between - within) / RUNS, rel=1e-6)
    assert own.value == pytest.approx(within, rel=1e-6)
    assert shared.freedom == pytest.approx(GROUPS - 1)
    assert own.freedom == pytest.approx(GROUPS * (RUNS - 1))


def test_the_interval_of_a_mean_is_students_over_the_trunks(law):
    assert law.resamples.kind == "shared" and law.resamples.group_by == "trunk"
    reach = 2.365 * np.sqrt(mean_squares(law)[0] / (GROUPS * RUNS))  # t of 7 degrees, 97.5 %
    found = law.params["E"]
    assert found.value - found.low == pytest.approx(reach, rel=0.06)
    assert found.high - found.value == pytest.approx(reach, rel=0.06)


def test_without_shared_luck_the_trunks_do_not_matter():
    rng = np.random.default_rng(5)
    loss = 3 + 0.1 * rng.standard_normal((40, GROUPS * RUNS))
    group = np.repeat(np.arange(GROUPS), RUNS)
    ratios = []
    for one in loss:
        law = scaling.fit(
            {"params": np.geomspace(1e6, 1e9, 40), "loss": one},
            MEAN,
            loss_kind="squares",
            resamples=0,
            starts=2,
        )
        shared, own = bootstrap.variances(law.problem, law.theta, group)
        ratios.append(shared.value / own.value)
    assert np.median(ratios) < 0.1
