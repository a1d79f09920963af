"""The best learning rate and batch out of sweep records, as laws of size and tokens."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.tables.runs import best_of_each

RATE = {"K": 0.6, "a": -0.28, "b": 0.08}
BATCH = {"K": 0.05, "a": 0.12, "b": 0.35}


def power(law, size, data):
    return law["K"] * size ** law["a"] * data ** law["b"]


def sweep(noise=0.0, seed=0, wide=2.0):
    """Nine (N, D) cells, five batches at each, seven learning rates at each batch."""
    rows = []
    for size in np.geomspace(1e6, 1e8, 3):
        for data in np.geomspace(1e8, 1e10, 3):
            batches = power(BATCH, size, data) * np.geomspace(0.4, 2.5, 5)
            for batch in np.round(batches, 6):
                rates = power(RATE, size, data) * np.geomspace(1 / wide, wide, 7) * 1.2
                rows += [(size, data, batch, rate) for rate in rates]
    size, data, batch, rate = np.array(rows).T
    loss = 2 + 50 * size**-0.3 + 200 * data**-0.3
    loss += 0.05 * np.log(rate / power(RATE, size, data)) ** 2
    loss += 0.02 * np.log(batch / power(BATCH, size, data)) ** 2
    loss += noise * np.random.default_rng(seed).standard_normal(len(loss))
    return {
        "params": size,
        "tokens": data,
        "batch_size": batch,
        "learning_rate": rate,
        "loss": loss,
    }


def at_one_batch(table):
    """The rows of the middle batch of each cell."""
    keep = np.arange(len(table["loss"])) % 35 // 7 == 2
    return {name: column[keep] for name, column in table.items()}


def test_the_law_of_the_best_learning_rate_is_recovered():
    found = scaling.setting_law(at_one_batch(sweep()), resamples=0)
    assert len(found.used) == 9
    for name, value in RATE.items():
        assert found.law.values[name] == pytest.approx(value, rel=1e-6), name


def test_the_law_of_the_best_batch_is_that_at_the_best_learning_rate():
    found = scaling.setting_law(sweep(), "batch_size", nested=("learning_rate",), resamples=0)
    for name, value in BATCH.items():
        assert found.law.values[name] == pytest.approx(value, rel=1e-6), name


def test_intervals_hold_the_truth_as_often_as_they_say():
    hits = []
    for seed in range(40):
        table = at_one_batch(sweep(noise=0.003, seed=seed))
        law = scaling.setting_law(table, resamples=100, starts=4, seed=seed).law
        hits.append([law.params[n].low <= RATE[n] <= law.params[n].high for n in RATE])
    assert 0.85 <= np.mean(hits) <= 1.0


def test_a_minimum_at_the_edge_is_left_out_with_a_reason():
    table = at_one_batch(sweep())
    first = table["params"] == table["params"].min()
    keep = ~first | (table["learning_rate"] < power(RATE, 1e6, 1e8))
    table = {name: column[keep] for name, column in table.items()}
    best = scaling.best_settings(table, "learning_rate")
    reasons = [one.reason for one in best]
    assert any(reason for reason in reasons) and any(not reason for reason in reasons)
    assert all("minimum" in reason for reason in reasons if reason)
    assert all(np.isnan(one.value) for one in best if one.reason)


def test_a_hill_a_missing_column_and_no_sweep_at_all_are_one_sentence():
    table = at_one_batch(sweep())
    with pytest.raises(UserError, match="curves down"):
        scaling.setting_law({**table, "loss": 10 - table["loss"]})
    with pytest.raises(UserError, match="no complete column warmup"):
        scaling.setting_law(table, "warmup")
    with pytest.raises(UserError, match="1 values near the minimum"):
        scaling.setting_law({**table, "learning_rate": np.full(len(table["loss"]), 1e-3)})


def test_the_best_run_of_each_size_and_tokens_is_kept():
    table = {
        "params": [1e6, 1e6, 1e6, 2e6, 2e6],
        "tokens": [1e8] * 5,
        "learning_rate": [1e-3, 2e-3, 4e-3, 1e-3, 2e-3],
        "loss": [3.2, 3.0, 3.1, 2.9, 2.95],
    }
    runs = scaling.prepare(table, scaling.FitConfig())
    kept = best_of_each(runs, ("learning_rate",))
    assert kept.loss.tolist() == [3.0, 2.9]
    assert len(kept.left_out) == 3 and len(best_of_each(runs, ())) == 5


def test_a_setting_judged_while_another_varies_is_refused_by_name():
    table = sweep()
    with pytest.raises(UserError, match="judged while batch_size varies"):
        scaling.setting_law(table, resamples=0)
    named = scaling.setting_law(table, nested=("batch_size",), resamples=0)
    assert named.law.values["b"] == pytest.approx(RATE["b"], abs=1e-6)


def test_a_hidden_setting_of_any_kind_is_refused():
    """Text beside rows that were left out, empty cells, and values that never repeat."""
    table = at_one_batch(sweep())
    count = len(table["loss"])
    number = np.arange(count)
    state = np.where(number == 5, "crashed", "finished")
    hidden = {
        "optimizer": np.where(number % 2 == 0, "adam", "lion"),
        "weight_decay": np.where(number % 2 == 0, 0.1, np.nan),
        "batch_size": np.random.default_rng(0).uniform(1, 100, count),
        "per_device_train_batch_size": 1.0 + number % 2,
        "grad_acc": 1.0 + number % 2,
        "memory_tokens": 128.0 + number % 2,
        "max_grad_norm": np.random.default_rng(1).uniform(0.1, 1, count),
    }
    for name, values in hidden.items():
        with pytest.raises(UserError, match=f"judged while {name} varies"):
            scaling.setting_law({**table, "state": state, name: values}, resamples=0)


def test_a_sweep_of_settings_that_nobody_named_is_a_doubt():
    config = scaling.FitConfig(resamples=8, starts=4, diagnostics=False, approaches=("parametric",))
    laws = scaling.fit_laws(sweep(), None, config)
    assert any(
        "differ in batch_size and learning_rate" in line for line in laws["verdict"]["doubts"]
    )
    seeds = {key: np.tile(value, 2) for key, value in at_one_batch(sweep()).items()}
    seeds["seed"] = np.repeat([0, 1], len(seeds["loss"]) // 2)
    seeds["learning_rate"] = seeds["params"] ** -0.5
    seeds["loss"] = 1.7 + 400 / seeds["params"] ** 0.34 + 0.01 * seeds["seed"]
    seeds["loss"] += 400 / seeds["tokens"] ** 0.28
    assert not any(
        "differ in" in line for line in scaling.fit_laws(seeds, None, config)["warnings"]
    )


def test_seeds_results_and_functions_of_the_setting_hide_nothing():
    table = at_one_batch(sweep())
    count = len(table["loss"])
    table |= {
        "seed": np.arange(count) % 3,
        "steps": 1000 * np.round(table["learning_rate"] * 1e4),
        "seconds": np.random.default_rng(0).uniform(size=count),
        "grad_norm": np.random.default_rng(1).uniform(size=count),
        "peak_memory": 10.0 + np.arange(count) % 2,
        "random_state": np.arange(count) % 2,
    }
    assert len(scaling.setting_law(table, resamples=0).used) == 9


def test_a_nested_minimum_is_near_its_lowest_run():
    """A cliff beside the minimum once bent the inner parabola to a loss that no run had."""
    table = sweep()
    table["loss"] = table["loss"] + np.where(
        table["learning_rate"] > 1.9 * power(RATE, table["params"], table["tokens"]), 4.0, 0.0
    )
    best = scaling.best_settings(table, "batch_size", ("learning_rate",))
    for one in best:
        here = (table["params"] == one.at["params"]) & (table["tokens"] == one.at["tokens"])
        if not one.reason:
            assert one.loss == pytest.approx(table["loss"][here].min(), abs=0.05)
