"""A form of one's own: registered from outside of the package, it is a form like any other."""

import numpy as np
import pytest

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.laws.saved import Laws

TOY = scaling.Form(
    name="toy_sum",
    equation="L = E + A (N^-alpha + D^-alpha)",
    columns=("params", "tokens"),
    parameters=(scaling.positive("E"), scaling.positive("A", high=1e9), scaling.exponent("alpha")),
    linear=("E", "A"),
    loss=lambda p, x: (
        p["E"]
        + p["A"]
        * (scaling.power(x["params"], -p["alpha"]) + scaling.power(x["tokens"], -p["alpha"]))
    ),
)


@pytest.fixture
def toy():
    yield scaling.register(TOY)
    del scaling.FORMS[TOY.name]


def table():
    n, d = (x.ravel() for x in np.meshgrid(np.geomspace(1e6, 1e8, 5), np.geomspace(1e8, 1e10, 5)))
    return {"params": n, "tokens": d, "loss": 1.5 + 300 * (n**-0.3 + d**-0.3)}


def test_it_works_by_name_through_the_config_and_is_listed(toy):
    config = scaling.FitConfig(forms=("toy_sum",), approaches=(), diagnostics=False, resamples=0)
    laws = scaling.fit_laws(table(), config=config)
    found = laws["laws"]["toy_sum"]["params"]
    assert found["alpha"]["value"] == pytest.approx(0.3, rel=1e-4)
    assert "toy_sum" in scaling.FORMS
    with pytest.raises(UserError, match="toy_sum"):
        scaling.form_named("toy_sun")


def test_its_saved_law_predicts(toy):
    config = scaling.FitConfig(forms=("toy_sum",), approaches=(), diagnostics=False, resamples=0)
    laws = scaling.fit_laws(table(), config=config)
    (found,) = scaling.predict_saved(laws, 1e20)
    best = found["params"]
    assert found["loss"] == pytest.approx(
        1.5 + 300 * (best**-0.3 + found["tokens"] ** -0.3), rel=1e-3
    )


def test_another_law_keeps_its_name(toy):
    with pytest.raises(UserError, match="another name"):
        scaling.register(scaling.Form("chinchilla", "", (), (), lambda p, x: 0.0))


def test_saved_laws_are_the_same_after_reading():
    content = {"schema": 1, "laws": {"x": {"params": {}}}, "warnings": ["a"]}
    laws = Laws.from_json(content)
    assert Laws.from_json(laws.to_json()) == laws
    assert laws.law("x") == {"params": {}} and laws.law("y") == {}
    for wrong in ([], None, {"laws": 3}):
        with pytest.raises(UserError, match="fit"):
            Laws.from_json(wrong)
