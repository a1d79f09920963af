"""Fits of tables whose law is known."""

import json
import time

import jax
import numpy as np
import pytest
from known_runs import TRUTH, chinchilla_loss, curves_table, runs_table

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.fit import bootstrap, engine, traced
from gptjax.scaling.laws import fit_laws as laws_of
from gptjax.threads import in_threads


def test_a_noiseless_table_gives_its_law_back():
    law = scaling.fit(runs_table(), starts=8, resamples=0)
    for name, value in TRUTH.items():
        assert law.values[name] == pytest.approx(value, rel=1e-6), name
    assert law.certificate.share_at_best == 1.0


@pytest.mark.parametrize("kind", scaling.config.LOSS_KINDS)
def test_every_loss_kind_recovers_a_noiseless_law(kind):
    law = scaling.fit(runs_table(), resamples=0, starts=4, loss_kind=kind)
    assert law.values["alpha"] == pytest.approx(TRUTH["alpha"], rel=1e-5)


def test_huber_ignores_an_outlier_that_squares_follow():
    table = runs_table(noise=1e-4)
    table["loss"][3] *= 1.2
    huber = scaling.fit(table, resamples=0, starts=16)
    squares = scaling.fit(table, resamples=0, starts=16, loss_kind="squares_log")
    error = {law: abs(law.values["E"] / TRUTH["E"] - 1) for law in ()}
    error = [abs(law.values["E"] / TRUTH["E"] - 1) for law in (huber, squares)]
    assert error[0] < 0.01 < error[1]


def test_the_gradient_is_that_of_the_objective():
    table = scaling.prepare(runs_table(noise=0.01))
    law = scaling.fit(table, resamples=0, starts=8)
    problem, theta = law.problem, law.theta + 0.01
    weights, target = problem.weights[None], problem.target[None]
    for i in range(len(theta)):
        step = np.zeros_like(theta)
        step[i] = 1e-6
        ends = engine.objective(problem, np.stack([theta + step, theta - step]), weights, target)
        expected = (ends[0] - ends[1]) / 2e-6
        assert engine.gradient(problem, theta)[i] == pytest.approx(expected, rel=1e-5, abs=1e-10)


def test_fixed_and_tied_parameters_stay_so():
    law = scaling.fit(
        runs_table(noise=0.002), starts=8, resamples=100, e_fixed=1.7, tied_exponents=True
    )
    assert law.values["E"] == 1.7
    assert law.values["alpha"] == law.values["beta"]
    assert len(law.theta) == 3
    assert law.params["E"].low == law.params["E"].high == 1.7


def test_the_same_seed_gives_the_same_numbers_and_the_default_precision_is_left_alone():
    table = runs_table(noise=0.003)
    first, second = (scaling.fit(table, starts=8, resamples=50, seed=7).params for _ in range(2))
    assert first == second
    assert scaling.fit(table, starts=8, resamples=50, seed=8).params != first
    assert jax.numpy.ones(1).dtype == np.float32


def test_copying_every_run_under_other_names_does_not_change_the_optimum():
    table = runs_table(noise=0.003)
    once = scaling.fit(table, starts=8, resamples=0)
    weights = np.full(len(table["loss"]), 2.0)
    problem = once.problem
    twice = engine.solve(problem, once.theta[None] + 0.05, weights=weights[None])
    assert twice.theta[0] == pytest.approx(once.theta, abs=1e-6)


def test_predict_and_optimum_give_intervals_that_hold_the_truth():
    law = scaling.fit(runs_table(noise=0.003), starts=8, resamples=400)
    value, low, high = law.predict(1e9, 2e10)
    assert low < value < high
    assert low < chinchilla_loss(1e9, 2e10) < high
    narrow = law.predict(1e9, 2e10, noise=False)
    assert narrow[2] - narrow[1] < high - low
    best = law.optimum(1e21)
    exact = (0.34 * 400 / (0.36 * 1200)) ** (1 / 0.7) * (1e21 / 6) ** (0.36 / 0.7)
    assert best.params.low < exact < best.params.high
    assert best.tokens.value == pytest.approx(1e21 / 6 / best.params.value, rel=1e-9)
    many = law.predict(np.full((2, 3), 1e9), 2e10)
    assert many[0].shape == (2, 3) and many[0][1, 2] == pytest.approx(value)


def test_a_form_of_ones_own_takes_five_lines():
    mine = scaling.Form(
        name="mine",
        equation="L = E + A N^-alpha",
        columns=("params",),
        linear=("E", "A"),
        parameters=(scaling.positive("E"), scaling.positive("A"), scaling.exponent("alpha")),
        loss=lambda p, x: p["E"] + p["A"] * x["params"] ** -p["alpha"],
    )
    params = np.geomspace(1e6, 1e9, 12)
    table = {"params": params, "tokens": params * 20, "loss": 2 + 50 * params**-0.3}
    law = scaling.fit(table, form=mine, starts=8, resamples=0)
    assert law.values == pytest.approx({"E": 2.0, "A": 50.0, "alpha": 0.3}, rel=1e-6)
    assert law.predict(params=1e10)[0] == pytest.approx(2 + 50 * 1e10**-0.3)


def test_fit_laws_agrees_with_the_truth_by_three_approaches():
    table = runs_table(noise=0.001)
    laws = scaling.fit_laws(table, curves_table(table), scaling.FitConfig(starts=8, resamples=100))
    json.dumps(laws, allow_nan=False)
    assert set(laws["laws"]) == {"chinchilla_parametric", "isoflop", "envelope"}
    exponent = 0.36 / 0.70
    for name, tolerance in (("chinchilla_parametric", 0.02), ("isoflop", 0.02), ("envelope", 0.05)):
        a = laws["laws"][name]["params"]["a"]
        assert a["value"] == pytest.approx(exponent, abs=tolerance), name
        assert a["low"] < a["value"] < a["high"]
    assert laws["holdout"]["relative_error"] < 0.003
    assert [row["law"] for row in laws["prediction"][:2]] == ["mixture", "chinchilla_parametric"]
    assert laws["verdict"]["trusted"] and laws["mixture"]["forms"][0]["weight"] > 0.3
    assert laws["prediction"][0]["factor"] == pytest.approx(10)
    assert all(valley["used"] for valley in laws["laws"]["isoflop"]["valleys"])
    saved = scaling.predict_saved(json.loads(json.dumps(laws)), laws["prediction"][0]["flops"])
    for there, here in zip(saved, laws["prediction"], strict=True):
        assert there["params"] == pytest.approx(here["params"], rel=1e-9)
        # A normal approximation against resamples: close, not equal.
        assert there["params_low"] == pytest.approx(here["params_low"], rel=0.25)
        assert there.get("loss", -1.0) == pytest.approx(here.get("loss", -1.0), rel=1e-9)
    ends = {row["law"]: row.get("loss_low") for row in (*laws["prediction"], *saved)}
    (fitted,) = [row["loss_low"] for row in laws["prediction"] if row["law"] == "isoflop"]
    assert ends["isoflop"] == pytest.approx(fitted, rel=1e-3)


def test_failed_and_excluded_runs_are_named_with_their_reason():
    table = runs_table(noise=0.001)
    n = len(table["loss"])
    table["status"] = ["done"] * n
    table["reason"] = [""] * n
    table["status"][4], table["reason"][4] = "failed", "out of memory"
    table["loss"] = [*table["loss"][:4], None, *table["loss"][5:]]
    config = scaling.FitConfig(
        resamples=8,
        starts=4,
        exclude_below_flops=1.1e18,
        approaches=("parametric",),
        compare=("chinchilla",),
        diagnostics=False,
    )
    laws = scaling.fit_laws(table, None, config)
    reasons = {entry["cell"]: entry["reason"] for entry in laws["left_out"]}
    assert reasons["cell-4"] == "failed: out of memory"
    assert "exclude_below_flops" in reasons["cell-0"]
    assert len(reasons) == 7


def test_a_trunk_shared_by_runs_is_resampled_whole():
    table = runs_table(noise=0.002)
    table["trunk"] = [f"trunk-{i % 7}" for i in range(len(table["loss"]))]
    runs = scaling.prepare(table)
    assert runs.group_by == "trunk" and runs.groups == 7
    assert scaling.fit(runs, starts=8, resamples=50).resamples.group_by == "trunk"
    assert scaling.prepare(table, scaling.FitConfig(group_by="run")).groups == 35


def test_weights_from_standard_errors_follow_the_precise_runs():
    table = runs_table(noise=0.0)
    wrong = np.arange(len(table["loss"])) % 3 == 0
    table["loss"] = table["loss"] * np.where(wrong, 1.05, 1.0)
    table["loss_stderr"] = np.where(wrong, 1.0, 1e-3)
    options = {"resamples": 0, "starts": 16, "loss_kind": "squares_log"}
    plain = scaling.fit(table, **options)
    weighted = scaling.fit(table, weights="stderr", **options)
    error = [abs(law.values["alpha"] / 0.34 - 1) for law in (plain, weighted)]
    assert error[1] < 1e-3 < error[0]


def test_one_ratio_of_tokens_to_params_is_refused():
    params = np.geomspace(1e6, 1e9, 12)
    table = {"params": params, "tokens": 20 * params, "loss": chinchilla_loss(params, 20 * params)}
    with pytest.raises(UserError, match="cannot tell size from data"):
        scaling.fit(table)


def many_runs(rows, noise=0.004):
    rng = np.random.default_rng(rows)
    size = np.exp(rng.uniform(np.log(5e7), np.log(1.5e10), rows))
    data = np.exp(rng.uniform(np.log(1e9), np.log(3e11), rows))
    loss = 1.78 + 442 * size**-0.343 + 1272 * data**-0.342
    return {
        "params": size,
        "tokens": data,
        "loss": loss * np.exp(noise * rng.standard_normal(rows)),
    }


def test_a_fit_compiles_nothing():
    before = traced._derivatives._cache_size()
    scaling.fit(many_runs(70), resamples=20, starts=4)
    assert traced._derivatives._cache_size() == before


def test_a_large_table_is_searched_by_a_sample_and_polished():
    law = scaling.fit(many_runs(1500), resamples=0, starts=4)
    assert law.values["alpha"] == pytest.approx(0.343, abs=0.01)
    assert law.certificate.gradient_norm < 1e-6


def test_checks_of_a_large_table_use_a_sample_and_say_so(monkeypatch):
    monkeypatch.setattr(laws_of, "CHECKED_RUNS", 60)
    config = scaling.FitConfig(
        resamples=8, starts=4, approaches=("parametric",), compare=("chinchilla",)
    )
    seen = []
    laws = scaling.fit_laws(many_runs(90), None, config, watch=lambda *parts: seen.append(parts))
    assert sorted(seen)[-1][0] == seen[0][1]
    assert laws["laws"]["chinchilla_parametric"]["n_runs"] == 90
    assert max(row["n_train"] for row in laws["scores"]) < 61
    assert any("the laws rest on all 90 runs" in line for line in laws["notes"])


class Slow(laws_of.Steps):
    """Lets other threads count before a number is told."""

    def __setattr__(self, name, value):
        super().__setattr__(name, value)
        if name == "done":
            time.sleep(0.01)


def test_parts_that_end_at_once_are_counted_one_by_one():
    seen = []

    def tell(done, total):
        time.sleep(0.02 * (done % 2))  # a next number could overtake it
        seen.append(done)

    steps = Slow(tell, in_threads)
    steps.made(dict.fromkeys(range(6), lambda: None))
    assert seen == [1, 2, 3, 4, 5, 6]


def test_one_step_stands_for_refits_of_a_large_table():
    law = scaling.fit(many_runs(1000), resamples=0, starts=4)
    group, count = law.runs.group, 200
    refits, steps = (
        bootstrap.resample(law.problem, law.theta, group, count=count, seed=0, kind=kind)
        for kind in ("runs", "poisson")
    )
    ratio = steps.theta.std(0) / refits.theta.std(0)
    assert np.all((ratio > 0.75) & (ratio < 1.35)), ratio
    assert bootstrap.choose_kind(np.arange(2000), 5) == "poisson"
