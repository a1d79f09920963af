"""Laws beside one another: closed forms of a known pair, and intervals that hold the truth."""

import dataclasses

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.laws.side_by_side import best_of_budgets, frontier, side_by_side

BUDGETS = (1e12, 2e12, 4e12, 8e12)
E, A, B, ALPHA, BETA = 0.7, 30.0, 55.0, 0.36, 0.33
GAMMA = ALPHA * BETA / (ALPHA + BETA)


def table(data=1.0, noise=0.0, seed=0):
    """Runs of L = E + A N^-alpha + data·B D^-beta with C = 6 N D, two seeds a size."""
    rng = np.random.default_rng(seed)
    rows = []
    for flops in BUDGETS:
        for ratio in np.geomspace(0.3, 3.0, 5):
            for _ in range(2):
                params = ratio * (flops / 6) ** 0.5 / 5
                tokens = flops / 6 / params
                loss = E + A * params**-ALPHA + data * B * tokens**-BETA
                rows.append((params, tokens, flops, flops, loss * np.exp(rng.normal(0, noise))))
    names = ("params", "tokens", "flops", "budget", "loss")
    return dict(zip(names, np.array(rows).T, strict=True))


def excess(flops, data=1.0):
    """L* − E of the closed form (Hoffmann et al. 2022, equation 4)."""
    total = ALPHA + BETA
    scale = (ALPHA * A / (BETA * B * data)) ** (1 / total)
    params = scale * (flops / 6) ** (BETA / total)
    return A * params**-ALPHA + data * B * (flops / 6 / params) ** -BETA


def test_noiseless_laws_give_the_closed_forms():
    # Below noise's floor, for intervals need residuals.
    laws = {
        name: scaling.fit(table(data, 1e-9), starts=8, resamples=30)
        for name, data in (("all", 1.0), ("frugal", 0.8))
    }
    rows = {(s.label, s.flops): s for s in side_by_side(laws, BUDGETS)}
    # With data·B for B the same L* − E needs data^(alpha / (alpha + beta) / gamma) of the FLOPs.
    wanted = 0.8 ** -(1 / BETA)
    for flops in BUDGETS:
        own = rows["frugal", flops]
        assert own.multiplier.value == pytest.approx(wanted, rel=1e-3)
        assert own.loss.value == pytest.approx(E + excess(flops, 0.8), rel=1e-6)
        gap = excess(flops, 0.8) - excess(flops)
        assert own.difference.value == pytest.approx(gap, rel=1e-4)
        slope = GAMMA * excess(flops) / (E + excess(flops))
        assert rows["all", flops].slope.value == pytest.approx(slope, rel=1e-3)
        steeper = GAMMA * excess(flops, 0.8) / (E + excess(flops, 0.8)) - slope
        for end in own.slope_difference:
            assert end == pytest.approx(steeper, rel=0.1)
        assert tuple(rows["all", flops].multiplier) == (1.0, 1.0, 1.0)
        assert tuple(rows["all", flops].difference) == (0.0, 0.0, 0.0)


def test_intervals_hold_the_truth_and_tell_laws_apart():
    tables = {
        "one": table(1.0, 0.003, 1),
        "same": table(1.0, 0.003, 2),
        "better": table(0.9, 0.003, 3),
    }
    laws = {name: scaling.fit(runs, starts=8, resamples=300) for name, runs in tables.items()}
    rows = {s.label: s for s in side_by_side(laws, [2e12])}
    for label, data in (("same", 1.0), ("better", 0.9)):
        low, high = rows[label].multiplier.low, rows[label].multiplier.high
        assert low < data ** -(1 / BETA) < high and high / low < 1.2
        gap = excess(2e12, data) - excess(2e12)
        assert rows[label].difference.low < gap < rows[label].difference.high
    assert rows["same"].slope_difference.low < 0 < rows["same"].slope_difference.high
    assert rows["better"].difference.high < 0 < 1 < rows["better"].multiplier.low
    value, low, high = frontier(laws["one"], np.array([2e12, 1e13]))
    assert (low < value).all() and (value < high).all()
    assert value[0] == pytest.approx(rows["one"].loss.value)


def test_the_best_size_of_a_budget_has_the_lowest_mean():
    runs = scaling.prepare(table(1.0, 0.003))
    rows = best_of_budgets(runs)
    assert [row["budget"] for row in rows] == list(BUDGETS)
    for row in rows:
        here = runs.budget == row["budget"]
        means = [runs.loss[here & (runs.params == n)].mean() for n in set(runs.params[here])]
        assert row["loss"] == pytest.approx(min(means)) and len(row["losses"]) == 2


def test_levels_must_agree():
    law = scaling.fit(table(1.0, 0.003), resamples=0, starts=4)
    other = dataclasses.replace(law, config=dataclasses.replace(law.config, confidence=0.9))
    with pytest.raises(UserError, match="different levels"):
        side_by_side({"a": law, "b": other}, [1e12])
