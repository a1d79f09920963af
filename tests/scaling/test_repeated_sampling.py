"""Laws of repeated sampling: known truths recovered, coverage by hand, refusals."""

import itertools

import numpy as np
import pytest
from scipy import stats

from gptjax.errors import UserError
from gptjax.scaling.laws import repeated_sampling as laws

SIZES = (1e4, 4e4, 1.6e5)
TRUTH = laws.Beta(-2.0, 0.5, 1.0, -0.3, float(np.log(4e4)))


def drawn(truth, questions, samples, seed=0):
    """right_SQn of questions whose probabilities follow the form `beta`."""
    rng = np.random.default_rng(seed)
    a, b = truth.shapes(SIZES)
    p_SQ = rng.beta(a[:, None], b[:, None], (len(SIZES), questions))
    return rng.random((len(SIZES), questions, samples)) < p_SQ[..., None]


def test_coverage_is_the_mean_over_all_choices():
    right = np.array([1, 0, 0, 1, 0], bool)
    for k in range(1, 6):
        choices = itertools.combinations(right, k)
        by_hand = np.mean([any(some) for some in choices])
        found = laws.coverage_of(np.array([[right.sum()]]), 5, [k])
        assert found == pytest.approx(np.array([[by_hand]]))


def test_beta_is_the_mean_of_its_questions():
    """∫ (1 − (1 − p)^k) over the density, and k = 1 is the mean a/(a + b)."""
    a, b = TRUTH.shapes(SIZES[0])
    for k in (1, 7):
        mean = stats.beta(a, b).expect(lambda p, k=k: 1 - (1 - p) ** k)
        assert TRUTH.coverage(SIZES[0], k) == pytest.approx(mean, rel=1e-4)
    assert TRUTH.coverage(SIZES[0], 1) == pytest.approx(a / (a + b))


def test_beta_is_found_with_its_intervals_and_predicts_what_it_was_not_shown():
    found = laws.fit_repeated_sampling(SIZES, drawn(TRUTH, 400, 32), resamples=40)
    assert found.form == "beta"
    for name, value in TRUTH.values.items():
        assert found.low[name] < value < found.high[name], name
    assert max(found.errors["beta"].values()) < 0.05
    assert found.errors["power"]["samples"] > found.errors["beta"]["samples"]


def test_power_is_found_from_exact_coverages():
    truth = laws.Power(40.0, 0.3, 0.4)
    samples = [1, 2, 4, 8, 16, 32]
    coverage = truth.coverage(np.array(SIZES)[:, None], np.array(samples)[None, :])
    found = laws.fit_power(SIZES, samples, coverage)
    assert [*found.values.values()] == pytest.approx([*truth.values.values()])


def test_the_order_of_the_sizes_does_not_matter():
    right = drawn(TRUTH, 60, 16)
    one = laws.fit_repeated_sampling(SIZES, right, resamples=20)
    other = laws.fit_repeated_sampling(SIZES[::-1], right[::-1], resamples=20)
    assert one == other


@pytest.mark.parametrize(
    ("right", "sentence"),
    [
        (np.ones((2, 5, 16), bool), "2 sizes and 16 samples leave nothing to hold out"),
        (np.ones((3, 5, 4), bool), "3 sizes and 4 samples leave nothing to hold out"),
        (np.zeros((3, 5, 16), bool), "0 shares of solved questions are between 2% and 98%"),
    ],
)
def test_what_makes_no_law_is_refused(right, sentence):
    with pytest.raises(UserError, match=sentence):
        laws.fit_repeated_sampling(SIZES[: len(right)], right, resamples=20)
