"""A true threshold is recognised; a smooth ability is not called one."""

import functools
import json

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError

SIZES = np.geomspace(1e7, 1e11, 20)
SEEDS = range(4)


def threshold(size, width=0.3):
    return 0.25 + 0.6 / (1 + (size / 2e9) ** (-1 / width))


def smooth(size):
    return 0.9 - 20 * size**-0.21


@functools.cache
def judged(form, seed, noise=0.02, **changes):
    score = form(SIZES, **changes)
    score = score + noise * np.random.default_rng(seed).standard_normal(len(SIZES))
    table = {"params": SIZES, "score": score}
    return scaling.judge_threshold(table, column_loss="score", resamples=30, starts=8)


def test_a_true_threshold_is_recognised():
    found = [judged(threshold, seed) for seed in SEEDS]
    assert sum(one.threshold for one in found) >= len(SEEDS) - 1
    places = [one.sigmoid.values["N_half"] for one in found]
    assert np.median(places) == pytest.approx(2e9, rel=0.1)
    assert "threshold near" in found[0].sentence


def test_a_smooth_ability_is_not_called_a_threshold():
    found = [judged(smooth, seed) for seed in SEEDS]
    assert not any(one.threshold for one in found)
    assert all(one.sentence.startswith("No threshold is shown") for one in found)


def test_a_slow_sigmoid_is_better_than_the_smooth_form_and_still_no_threshold():
    found = judged(threshold, 0, noise=0.001, width=1.5)
    assert found.gain > 6 and not found.threshold
    assert "of the range of sizes" in found.sentence


def test_the_gain_is_akaikes_criterion_by_hand():
    found = judged(threshold, 0)
    square = [np.mean(law.residuals**2) for law in (found.smooth, found.sigmoid)]
    by_hand = [
        20 * np.log(s) + 2 * k + 2 * k * (k + 1) / (20 - k - 1)
        for s, k in zip(square, (4, 5), strict=True)
    ]
    assert found.gain == pytest.approx(by_hand[0] - by_hand[1])


def test_a_score_of_zero_is_a_score_and_too_few_sizes_are_refused():
    score = np.maximum(threshold(SIZES) - 0.25, 0.0)
    score[0] = 0.0
    table = {"params": SIZES, "score": score}
    assert scaling.judge_threshold(table, column_loss="score", starts=8, resamples=0).gain > 0
    few = {name: column[::4] for name, column in table.items()}
    with pytest.raises(UserError, match="at least"):
        scaling.judge_threshold(few, column_loss="score", resamples=0)


def test_a_sigmoid_never_comes_alone_in_the_laws():
    table = {"params": SIZES, "score": threshold(SIZES) + 0.001 * np.cos(np.arange(20))}
    config = scaling.FitConfig(
        approaches=(),
        forms=("sigmoid",),
        column_loss="score",
        starts=8,
        resamples=30,
        diagnostics=False,
    )
    laws = scaling.fit_laws(table, None, config)
    assert set(laws["laws"]) == {"sigmoid", "smooth"}
    assert laws["emergence"]["threshold"] and laws["emergence"]["gain"] > 6
    assert laws["prediction"] == []
    json.dumps(laws, allow_nan=False)
