"""Chains of two laws, and one law of several outputs with shared exponents."""

import dataclasses

import numpy as np
import pytest

from gptjax import report, scaling
from gptjax.errors import UserError

SCORE = scaling.Form(
    name="error_of_loss",
    equation="y = top - K exp(-gamma L)",
    columns=("task_loss",),
    parameters=(
        scaling.positive("top", (0.5, 1.0)),
        scaling.positive("K", (0.1, 10.0)),
        scaling.exponent("gamma", (0.5, 2.0)),
    ),
    linear=("top", "K"),
    loss=lambda p, x: p["top"] - p["K"] * scaling.exp(-p["gamma"] * x["task_loss"]),
)


def runs(seed, repeats=1, noise=0.003, scatter=0.002):
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6)))
    n, d = np.tile(n, repeats), np.tile(d, repeats)
    rng = np.random.default_rng(seed)
    clean = 1.7 + 400 * n**-0.34 + 1200 * d**-0.36
    loss = clean * np.exp(noise * rng.standard_normal(len(n)))
    error = 0.9 - 3 * np.exp(-1.1 * loss) + scatter * rng.standard_normal(len(n))
    return {"params": n, "tokens": d, "loss": loss, "error": error, "task_loss": loss}


def both(table, resamples=200):
    options = {"resamples": resamples, "starts": 8}
    first = scaling.fit(table, **options)
    second = scaling.fit(
        table, SCORE, column_loss="error", loss_kind="squares", check_units=False, **options
    )
    return first, second


def error_of(law, name):
    """Standard error of a parameter's logarithm by the linearised fit."""
    place = [parameter.name for parameter in law.form.fitted].index(name)
    return np.sqrt(law.covariance[place, place])


def test_the_interval_of_a_chain_holds_the_doubt_of_both_laws():
    first, second = both(runs(0))
    found = scaling.chain(first, second, "task_loss").predict(1e11, 1e13)
    value, low, high = first.predict(1e11, 1e13, noise=False)
    alone = second.predict(task_loss=value, noise=False)
    ends = [second.predict(task_loss=end, noise=False)[0] for end in (low, high)]
    assert found.value == pytest.approx(alone[0])
    both_parts = np.hypot(alone[2] - alone[1], ends[1] - ends[0])
    assert found.high - found.low == pytest.approx(both_parts, rel=0.25)
    right = 0.9 - 3 * np.exp(-1.1 * (1.7 + 400 * 1e11**-0.34 + 1200 * 1e13**-0.36))
    assert found.low < right < found.high


def test_a_chain_at_a_budget_is_that_at_its_best_split():
    first, second = both(runs(1))
    chain = scaling.chain(first, second, "task_loss")
    best = first.optimum(1e22)
    there = chain.predict(best.params.value, best.tokens.value)
    assert chain.optimum(1e22).value == pytest.approx(there.value)
    assert chain.optimum(1e22).low < there.value < chain.optimum(1e22).high


def test_only_drawn_runs_share_their_luck():
    first, second = both(runs(2))
    assert first.resamples.kind == "wild"
    assert not scaling.chain(first, second, "task_loss").drawn_together
    first, second = both(runs(2, repeats=6), resamples=40)
    assert first.resamples.kind == "runs"
    assert scaling.chain(first, second, "task_loss").drawn_together


def test_a_chain_names_what_it_lacks():
    first, second = both(runs(3), resamples=0)
    with pytest.raises(UserError, match="has no resamples"):
        scaling.chain(first, second, "task_loss")
    with pytest.raises(UserError, match="reads params, tokens"):
        scaling.chain(second, first, "task_loss")


def test_shared_exponents_are_known_better_than_each_alone():
    table = runs(4)
    rng = np.random.default_rng(9)
    n, d = table["params"], table["tokens"]
    clean = 2.1 + 250 * n**-0.34 + 2000 * d**-0.36
    table["code"] = clean * np.exp(0.003 * rng.standard_normal(len(n)))
    options = {"resamples": 0, "starts": 8}
    joint = scaling.fit_outputs(table, ("loss", "code"), **options)
    assert set(joint.values) == {
        *("E_loss", "A_loss", "B_loss", "E_code", "A_code", "B_code", "alpha", "beta")
    }
    assert joint.runs.groups == len(n) == len(joint.runs) / 2  # outputs of a run share its luck
    errors = [error_of(law, "alpha") for law in (joint, scaling.fit(table, **options))]
    assert errors[0] < 0.85 * errors[1]  # half the variance, a factor of .71
    assert joint.values["alpha"] == pytest.approx(0.34, abs=3 * errors[0] * 0.34)
    right = 2.1 + 250 * 1e10**-0.34 + 2000 * 1e12**-0.36
    assert joint.predict(1e10, 1e12, output=1)[0] == pytest.approx(right, rel=0.01)
    with pytest.raises(UserError, match="no parameter"):
        scaling.fit_outputs(table, ("loss", "code"), shared=("alfa",))
    with pytest.raises(UserError, match="fewer than two"):
        scaling.fit_outputs(table, ("loss",))


def test_a_config_names_scores_and_outputs():
    """Both go into laws.json with a sentence for terminal and report, from the ends of curves."""
    table = {name: column for name, column in runs(5).items() if name != "task_loss"}
    n, d = table["params"], table["tokens"]
    table["code"] = 2.1 + 250 * n**-0.34 + 2000 * d**-0.36
    table |= {"run": np.array([f"r{i}" for i in range(len(n))], object), "step": np.full(len(n), 9)}
    halves = table | {"tokens": d / 2, "loss": table["loss"] + 1, "step": np.full(len(n), 4)}
    table = {name: np.concatenate([halves[name], table[name]]) for name in table}
    config = scaling.FitConfig(
        approaches=("parametric",), diagnostics=False, holdout_budgets=0, resamples=30, starts=4
    )
    asked = {"chained": ("error", "bleu"), "outputs": ("loss", "code"), "predict_flops": (1e22,)}
    laws = scaling.fit_laws(table, None, dataclasses.replace(config, **asked))
    error, missing = laws["chains"]
    best = laws["prediction"][0]
    right = 0.9 - 3 * np.exp(
        -1.1 * (1.7 + 400 * best["params"] ** -0.34 + 1200 * best["tokens"] ** -0.36)
    )
    (at,) = error["prediction"]
    assert at["low"] < right < at["high"] and at["high"] - at["low"] < 0.1
    assert missing["sentence"].startswith(
        "No law of bleu through the loss: the table has no column"
    )
    found = laws["outputs"]["prediction"][0]["outputs"]
    assert found["loss"]["value"] == pytest.approx(best["loss"], rel=0.01)
    code = 2.1 + 250 * best["params"] ** -0.34 + 2000 * best["tokens"] ** -0.36
    assert found["code"]["value"] == pytest.approx(code, rel=0.01)
    said = " ".join(report.answer(laws, width=1000).split())
    assert error["sentence"] in said and laws["outputs"]["sentence"] in said
    assert "shared alpha = 0.3" in said
    assert laws["outputs"]["n_runs"] == len(n)
