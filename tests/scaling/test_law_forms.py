"""One contract for all law forms: what a form predicts is recovered, and so are its parameters."""

import jax
import numpy as np
import pytest
from known_forms import CONTRACT, clean_loss

from gptjax import scaling
from gptjax.scaling.fit import coordinates, derivatives, engine, traced
from gptjax.scaling.fit.fit import fit_runs, problem_of
from gptjax.scaling.fit.starts import starting_points


def test_every_form_has_a_row():
    assert set(CONTRACT) == set(scaling.FORMS)


@pytest.mark.parametrize("name", CONTRACT)
def test_noiseless_recovery(name):
    """From the few starts of a diagnostic's refit."""
    case, form = CONTRACT[name], scaling.form_named(name)
    config = scaling.FitConfig(resamples=0, column_loss="target", loss_kind=case.kind)
    runs = scaling.prepare({**case.columns, "target": clean_loss(name)}, config, form.columns)
    assert_recovered(fit_runs(runs, form, config, quick=True), case)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRACT)
def test_noiseless_recovery_by_a_whole_fit(name):
    case = CONTRACT[name]
    table = {**case.columns, "target": clean_loss(name)}
    options = {"resamples": 0, "starts": 16, "column_loss": "target", "loss_kind": case.kind}
    assert_recovered(scaling.fit(table, form=name, **options), case)


def assert_recovered(law, case):
    assert np.max(np.abs(law.residuals)) < 1e-8
    for key, value in case.truth.items():
        assert law.values[key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", CONTRACT)
def test_starts_are_finite_and_inside_and_coordinates_invert(name):
    case, form = CONTRACT[name], scaling.form_named(name)
    config = scaling.FitConfig(column_loss="target", loss_kind=case.kind)
    runs = scaling.prepare({**case.columns, "target": clean_loss(name)}, config, form.columns)
    problem = problem_of(runs, form, config)
    theta = coordinates.theta_of(form, case.truth, problem.centres)
    again = coordinates.values_of(form, theta, problem.centres)
    assert {k: float(v) for k, v in again.items()} == pytest.approx(case.truth, rel=1e-9)
    low, high = problem.bounds
    assert np.all((theta >= low) & (theta <= high))
    starts = starting_points(problem, 32, 0)
    exact = set(form.linear) == set(form.names)  # one linear problem, which any start solves
    assert starts.shape == (1 if exact else 32, len(form.parameters))
    assert np.all(np.isfinite(starts)) and np.all((starts >= low) & (starts <= high))
    assert form.equation and form.paper and form.units


@pytest.mark.parametrize("name", CONTRACT)
def test_jets_give_the_derivatives_of_jax(name, monkeypatch):
    plain = jax.jit(traced._derivatives.__wrapped__, static_argnums=(0, 1))  # run once: quick
    monkeypatch.setattr(traced, "_derivatives", plain)
    case, form = CONTRACT[name], scaling.form_named(name)
    config = scaling.FitConfig(column_loss="target", loss_kind=case.kind)
    runs = scaling.prepare({**case.columns, "target": clean_loss(name)}, config, form.columns)
    problem = problem_of(runs, form, config)
    theta = np.resize(starting_points(problem, 3, 0), (3, len(form.parameters)))
    parts = (np.tile(problem.weights, (3, 1)), np.tile(problem.target, (3, 1)))
    found = engine.objective_of(problem, *parts)
    assert derivatives.takes_jets(form)
    size = 0.9 * np.median(np.abs(engine.jacobian(problem, theta[0])[0]))  # of no run exactly
    at = (theta, np.full(3, size), np.arange(3))
    ours, theirs = derivatives.evaluator(found)(*at), traced.evaluator(found)(*at)
    for one, other in zip(ours, theirs, strict=True):
        near = 1e-9 * max(np.max(np.abs(other)), 1e-3 * np.max(np.abs(theirs.majorizer)))
        np.testing.assert_allclose(one, other, rtol=1e-7, atol=near)


def test_an_equation_that_jets_cannot_follow_is_traced():
    import jax.numpy as jnp

    law = scaling.Form(
        name="softened",
        equation="L = E + A N^-alpha",
        columns=("params",),
        linear=("E", "A"),
        parameters=(scaling.positive("E"), scaling.positive("A"), scaling.exponent("alpha")),
        loss=lambda p, x: p["E"] + p["A"] * jnp.exp(-p["alpha"] * jnp.log(x["params"])),
    )
    assert not derivatives.takes_jets(law)
    size = np.geomspace(10, 1000, 12)
    found = scaling.fit(
        {"params": size, "loss": 2 + 3 * size**-0.5}, law, resamples=0, starts=4, check_units=False
    )
    assert found.values["alpha"] == pytest.approx(0.5, rel=1e-6)


def test_a_curve_with_a_fixed_parameter_keeps_the_plain_coordinates_of_the_others():
    case, form = CONTRACT["farseer"], scaling.form_named("farseer")
    held = form.fix(gamma=case.truth["gamma"]).tie(beta="alpha")
    assert [curve[0] for curve in held.bent] == []
    assert [curve[0] for curve in form.fix(gamma=-0.15).bent] == ["a1", "a2"]
    centres = {"params": 18.0}
    values = {**case.truth, "beta": case.truth["alpha"]}
    theta = coordinates.theta_of(held, values, centres)
    assert theta[[p.name for p in held.fitted].index("a3")] == case.truth["a3"]
    again = coordinates.values_of(held, theta, centres)
    assert {k: float(v) for k, v in again.items()} == pytest.approx(values, rel=1e-12)
