"""One run's curve predicts another schedule's."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.fit import engine

STEPS = 1200
WARMUP = np.linspace(0.01, 1.0, 60)
TRUTH = {"L0": 2.6, "A": 4.0, "alpha": 0.45, "B": 0.35, "C": 0.4, "beta": 0.5, "gamma": 0.6}
FORM = scaling.form_named("multi_power")


def schedules():
    rest = np.arange(STEPS - len(WARMUP))
    share = rest / len(rest)
    return {
        "cosine": np.r_[WARMUP, 0.55 + 0.45 * np.cos(np.pi * share)],
        "wsd": np.r_[WARMUP, np.where(share < 0.8, 1.0, 0.1 ** (5 * (share - 0.8)))],
        "two-stage": np.r_[WARMUP, np.where(share < 0.6, 1.0, 0.3)],
        "three-stage": np.r_[WARMUP, np.where(share < 0.5, 1.0, np.where(share < 0.8, 0.4, 0.12))],
    }


def plain_multi_power(rates, step, p):
    """Luo et al.'s law, a loop over every step, at a 1-based step."""
    top = len(rates) - int(np.argmax(rates[::-1]))  # 1-based last step at the peak
    loss = p["L0"] + p["A"] * sum(rates[:step]) ** -p["alpha"]
    for k in range(top + 1, step + 1):
        since = sum(rates[k - 1 : step])
        reach = p["C"] * rates[k - 1] ** -p["gamma"] * since
        loss -= p["B"] * (rates[k - 2] - rates[k - 1]) * (1 - (1 + reach) ** -p["beta"])
    return loss


def points(rates, count=32):
    return np.unique(np.geomspace(40, len(rates), count).astype(int))


def curve(name, noise=0.0, seed=0):
    """Columns of a schedule at some steps, with the plain law's loss."""
    rates = schedules()[name]
    steps = points(rates)
    loss = np.array([plain_multi_power(rates, int(step), TRUTH) for step in steps])
    loss = loss * np.exp(noise * np.random.default_rng(seed).standard_normal(len(steps)))
    return {**scaling.multi_power_columns(rates, steps), "loss": loss}


def together(*curves):
    return {name: np.concatenate([one[name] for one in curves]) for name in curves[0]}


@pytest.mark.parametrize("name", list(schedules()))
def test_the_form_is_the_plain_sum_over_steps(name):
    table = curve(name)
    tolerance = 1e-12 if "stage" in name else 1.5e-4  # a few falls are exact, many are merged
    assert engine.predict(FORM, TRUTH, table) == pytest.approx(table["loss"], rel=tolerance)


def test_learning_rates_in_any_unit_give_the_same_columns():
    rates = schedules()["wsd"]
    first = scaling.multi_power_columns(rates, points(rates))
    second = scaling.multi_power_columns(3e-4 * rates, points(rates))
    for name, column in first.items():
        assert second[name] == pytest.approx(column, rel=1e-9), name


def test_two_curves_predict_two_other_schedules():
    seen = together(curve("cosine", 3e-4, 1), curve("two-stage", 3e-4, 2))
    law = scaling.fit(seen, form=FORM, resamples=0, starts=16)
    for name in ("wsd", "three-stage"):
        other = curve(name)
        loss = other.pop("loss")
        assert law.predict(**other)[0] == pytest.approx(loss, rel=2e-3), name
        constant = {**other, **{key: 0 * other[key] for key in other if key.startswith("fall")}}
        assert law.predict(**constant)[0][-1] > loss[-1] * 1.01  # the falls are what matters


def test_one_curve_alone_predicts_another_by_tissues_law():
    every = schedules()
    truth = {"E": 2.5, "A": 5.0, "alpha": 0.5, "C": 2e-4}
    form = scaling.form_named("annealing")

    def table(name):
        columns = scaling.annealing_columns(every[name][60:])
        return {key: value[39::20] for key, value in columns.items()}

    seen, other = table("cosine"), table("wsd")
    assert other["lr_annealed"][0] == 0
    law = scaling.fit(
        {**seen, "loss": engine.predict(form, truth, seen)}, form=form, starts=8, resamples=0
    )
    assert law.predict(**other)[0] == pytest.approx(engine.predict(form, truth, other), rel=1e-6)


def test_a_schedule_that_is_none_is_refused():
    with pytest.raises(UserError, match="learning rate that is not above zero"):
        scaling.multi_power_columns([1.0, 0.0])
    with pytest.raises(UserError, match="learning rate that is not above zero"):
        scaling.multi_power_columns([])
    with pytest.raises(UserError, match="schedule of 2 steps has no step 3"):
        scaling.multi_power_columns([1.0, 0.5], steps=[1, 3])


def test_a_warm_up_may_begin_at_zero():
    rates = np.r_[np.linspace(0, 1, 5), np.ones(5), np.linspace(1, 0.1, 20)[1:]]
    steps = np.arange(3, len(rates) + 1)
    found = scaling.multi_power_columns(rates, steps)
    later = scaling.multi_power_columns(rates[1:], steps - 1)
    for name, column in later.items():
        np.testing.assert_allclose(found[name], column, rtol=1e-12)
    with pytest.raises(UserError, match="before the first learning rate"):
        scaling.multi_power_columns(rates)
    with pytest.raises(UserError, match="after it began"):
        scaling.multi_power_columns(np.r_[rates, 0.0], steps)
