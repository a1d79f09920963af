"""Predictions from saved laws that are hardly laws: wide ends and no warnings."""

import math
import warnings

import numpy as np

from gptjax import scaling
from gptjax.scaling.fit import coordinates


def saved(spread):
    """A Chinchilla law whose exponents are known to within a factor of e^spread."""
    form = scaling.form_named("chinchilla")
    truth = {"E": 1.7, "A": 400.0, "B": 1200.0, "alpha": 0.34, "beta": 0.36}
    centres = {"params": math.log(1e8), "tokens": math.log(1e10)}
    law = {
        "form": "chinchilla",
        "params": {name: {"value": value} for name, value in truth.items()},
        "coordinates": {
            "theta": coordinates.theta_of(form, truth, centres).tolist(),
            "centres": centres,
            "tied": {},
            "freedom": 30,
        },
        "covariance": {"names": list(form.names), "matrix": (np.eye(5) * spread**2).tolist()},
    }
    return {
        "settings": {"confidence": 0.95},
        "conventions": {"cost": {"kappa": 6.0, "slope": 1.0}},
        "laws": {"chinchilla_parametric": law},
    }


def test_a_degenerate_law_predicts_without_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        entry = scaling.predict_saved(saved(30.0), 1e24)[0]
    assert 0 < entry["params"] < math.inf
    assert entry["params_high"] > 1e40


def test_a_good_law_keeps_its_value_and_a_narrow_interval():
    entry = scaling.predict_saved(saved(0.01), 1e24)[0]
    assert entry["params_low"] < entry["params"] < entry["params_high"]
    assert entry["params_high"] / entry["params_low"] < 4
