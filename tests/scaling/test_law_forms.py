"""One contract for all law forms: what a form predicts is recovered, and so are its parameters."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.scaling import engine
from gptjax.scaling.fit import problem_of
from gptjax.scaling.starts import starting_points

N, D = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e10, 8), np.geomspace(1e9, 1e12, 8)))
ND = {"params": N, "tokens": D}
LINE = {"params": np.geomspace(1e6, 1e11, 24)}
UNIQUE = {
    "params": np.repeat(np.geomspace(1e7, 1e10, 6), 24),
    "tokens": np.tile(np.repeat(np.geomspace(1e9, 1e11, 6), 4), 6),
    "unique_tokens": np.tile([1e8, 1e9, 1e10, 1e11], 36),
}
EXPERTS = {
    "params_active": np.repeat(np.geomspace(1e7, 1e10, 5), 20),
    "tokens": np.tile(np.repeat(np.geomspace(1e9, 1e12, 5), 4), 5),
    "experts": np.tile([1.0, 4.0, 16.0, 64.0], 25),
}
STEPS = {"params": N, "steps": D / 1e6}
SUMS = {
    "lr_sum": np.tile(np.geomspace(1, 100, 10), 2),
    "lr_annealed": np.r_[np.zeros(10), np.linspace(0, 8, 10)],
}

# name: columns, true values, options. Every form of the library has a row here.
CONTRACT = {
    "chinchilla": (ND, {"E": 1.7, "A": 400, "B": 1200, "alpha": 0.34, "beta": 0.36}, {}),
    "frontier": ({"flops": np.geomspace(1e15, 1e21, 12)}, {"E": 1.7, "K": 300, "gamma": 0.13}, {}),
    "kaplan_n": (LINE, {"Nc": 8.8e13, "alpha": 0.076}, {}),
    "kaplan_d": ({"tokens": np.geomspace(1e8, 1e11, 12)}, {"Dc": 5.4e13, "alpha": 0.095}, {}),
    "kaplan_c": ({"flops": np.geomspace(1e15, 1e21, 12)}, {"Cc": 2.7e28, "alpha": 0.05}, {}),
    "kaplan_nd": (ND, {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_N": 0.076, "alpha_D": 0.103}, {}),
    "kaplan_ns": (STEPS, {"Nc": 6.5e13, "Sc": 2.1e3, "alpha_N": 0.077, "alpha_S": 0.76}, {}),
    "muennighoff": (
        UNIQUE,
        {"E": 1.87, "A": 521, "B": 1488, "alpha": 0.35, "beta": 0.36, "R_D": 15.4, "R_N": 5.3},
        {},
    ),
    "gadre": (ND, {"E": 1.508, "a": 90, "b": 190, "x": 0.2425}, {}),
    "farseer": (
        ND,
        {"a1": 0.02, "b1": -1.3, "alpha": 0.1, "a2": 0.03, "b2": 5.0, "beta": 0.09, "a3": -0.02,
         "b3": 0.9, "gamma": 0.1},
        {"trade": True},
    ),
    "moe": (
        EXPERTS,
        {"E": 1.2, "A": 35, "B": 50, "alpha": 0.19, "beta": 0.16, "gamma": -0.003, "delta": -0.1,
         "zeta": 0.002, "omega": 0.02},
        {},
    ),
    "broken": (
        LINE, {"E": 1.0, "A": 30, "c0": 0.1, "c1": 0.3, "N_break": 3e8, "f": 0.4}, {},
    ),
    "sigmoid": (
        LINE, {"low": 0.25, "high": 0.9, "N_half": 1e9, "width": 0.7}, {"loss_kind": "squares"},
    ),
    "smooth": (LINE, {"top": 0.9, "K": 8.0, "alpha": 0.2}, {"loss_kind": "squares"}),
    "power_nd": (ND, {"K": 3.0, "a": -0.25, "b": 0.11}, {}),
    "critical_batch": ({"batch": np.geomspace(1e4, 1e7, 9)}, {"S_min": 2e3, "B_crit": 3e5}, {}),
    "annealing": (SUMS, {"E": 2.6, "A": 0.7, "alpha": 0.5, "C": 0.03}, {}),
}  # fmt: skip


def table_of(name):
    columns, truth, options = CONTRACT[name]
    loss = engine.predict(scaling.form_named(name), truth, columns)
    return {**columns, "loss": loss}, truth, dict(options)


def test_every_form_has_a_row():
    assert set(CONTRACT) == set(scaling.FORMS)


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTRACT)
def test_noiseless_recovery(name):
    table, truth, options = table_of(name)
    trade = options.pop("trade", False)
    column = {"column_loss": "target"}
    table = {**table, "target": table["loss"]}
    law = scaling.fit(table, form=name, resamples=0, **column, **options)
    assert np.max(np.abs(law.residuals)) < 1e-8
    if not trade:
        for key, value in truth.items():
            assert law.values[key] == pytest.approx(value, rel=1e-6), key


@pytest.mark.parametrize("name", CONTRACT)
def test_starts_are_finite_and_inside_and_coordinates_invert(name):
    table, truth, _ = table_of(name)
    form = scaling.form_named(name)
    config = scaling.FitConfig(column_loss="target")
    runs = scaling.prepare({**table, "target": table["loss"]}, config, form.columns)
    problem = problem_of(runs, form, config)
    theta = engine.theta_of(form, truth, problem.centres)
    again = engine.values_of(form, theta, problem.centres, np)
    assert {k: float(v) for k, v in again.items()} == pytest.approx(truth, rel=1e-9)
    low, high = problem.bounds
    assert np.all((theta >= low) & (theta <= high))
    starts = starting_points(problem, 32, 0)
    assert starts.shape == (32, len(form.parameters))
    assert np.all(np.isfinite(starts)) and np.all((starts >= low) & (starts <= high))
    assert form.equation and form.paper and form.units
