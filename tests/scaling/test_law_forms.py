"""One contract for all law forms: what a form predicts is recovered, and so are its parameters."""

import numpy as np
import pytest
from known_forms import CONTRACT, clean_loss

from gptjax import scaling
from gptjax.scaling.fit import engine
from gptjax.scaling.fit.fit import problem_of
from gptjax.scaling.fit.starts import starting_points


def test_every_form_has_a_row():
    assert set(CONTRACT) == set(scaling.FORMS)


@pytest.mark.parametrize("name", CONTRACT)
def test_noiseless_recovery(name):
    case = CONTRACT[name]
    law = scaling.fit(
        {**case.columns, "target": clean_loss(name)},
        form=name,
        resamples=0,
        starts=16,
        column_loss="target",
        loss_kind=case.kind,
    )
    assert np.max(np.abs(law.residuals)) < 1e-8
    for key, value in case.truth.items():
        assert law.values[key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", CONTRACT)
def test_starts_are_finite_and_inside_and_coordinates_invert(name):
    case, form = CONTRACT[name], scaling.form_named(name)
    config = scaling.FitConfig(column_loss="target")
    runs = scaling.prepare({**case.columns, "target": clean_loss(name)}, config, form.columns)
    problem = problem_of(runs, form, config)
    theta = engine.theta_of(form, case.truth, problem.centres)
    again = engine.values_of(form, theta, problem.centres, np)
    assert {k: float(v) for k, v in again.items()} == pytest.approx(case.truth, rel=1e-9)
    low, high = problem.bounds
    assert np.all((theta >= low) & (theta <= high))
    starts = starting_points(problem, 32, 0)
    assert starts.shape == (32, len(form.parameters))
    assert np.all(np.isfinite(starts)) and np.all((starts >= low) & (starts <= high))
    assert form.equation and form.paper and form.units


def test_a_curve_with_a_fixed_parameter_keeps_the_plain_coordinates_of_the_others():
    case, form = CONTRACT["farseer"], scaling.form_named("farseer")
    held = form.fix(gamma=case.truth["gamma"]).tie(beta="alpha")
    assert [curve[0] for curve in held.bent] == []
    assert [curve[0] for curve in form.fix(gamma=-0.15).bent] == ["a1", "a2"]
    centres = {"params": 18.0}
    values = {**case.truth, "beta": case.truth["alpha"]}
    theta = engine.theta_of(held, values, centres)
    assert theta[[p.name for p in held.fitted].index("a3")] == case.truth["a3"]
    again = engine.values_of(held, theta, centres, np)
    assert {k: float(v) for k, v in again.items()} == pytest.approx(values, rel=1e-12)
