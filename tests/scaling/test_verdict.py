"""The verdict: its doubts, its notes, and that terminal and prediction show them."""

import dataclasses
from types import SimpleNamespace

import pytest

from gptjax.report import answer
from gptjax.scaling.approaches import mixture
from gptjax.scaling.laws import verdict
from gptjax.scaling.laws.saved import Laws


def prediction(law, params, low, high, flops=1e21):
    return {"law": law, "flops": flops, "params": params, "params_low": low, "params_high": high}


def laws(**changes):
    """A fit that nothing speaks against, changed."""
    row = {"form": "chinchilla", "factor": 30.0, "error": 0.003, "reason": None}
    good = Laws(
        data={"flops_range": [1e18, 1e20]},
        runs=[{}] * 30,
        laws={"chinchilla_parametric": {"lack_of_fit": {"p": 0.4, "found": False}}},
        prediction=[
            prediction("chinchilla_parametric", 1e10, 9e9, 1.1e10),
            prediction("isoflop", 1.05e10, 9e9, 1.2e10),
        ],
        rollout=[row],
        holdout={"relative_error": 0.002},
    )
    return verdict.completed(dataclasses.replace(good, **changes))


def test_nothing_speaks_against_a_good_fit():
    found = laws()
    assert found.verdict["trusted"] is True and found.verdict["doubts"] == []
    assert "approaches agree" in found.verdict["sentence"]
    assert any("10 times the largest run" in line for line in found.notes)


MISFIT = {"chinchilla_parametric": {"lack_of_fit": {"p": 1e-6, "found": True}}}
APART = [
    prediction("mixture", 1e10, 9e9, 1.1e10),
    prediction("isoflop", 3e10, 2.5e10, 4e10),
]
AMONG = [
    prediction("mixture", 1e10, 2e9, 5e10),
    prediction("chinchilla_parametric", 4e9, 3e9, 5e9),
    prediction("isoflop", 3e10, 2.5e10, 4e10),
]
FAR = [prediction("mixture", 1e10, 9e9, 1.1e10, flops=1e25)]
MISSED = [{"form": "chinchilla", "factor": 30.0, "error": -0.06, "reason": None}]
DOUBTS = {
    "misfit": ({"laws": MISFIT}, "residuals have structure"),
    "disjoint": ({"prediction": APART}, "IsoFLOP valleys and the mixture of forms disagree"),
    "disjoint beside a wide headline": (
        {"prediction": AMONG},
        "the form chinchilla and IsoFLOP valleys disagree",
    ),
    "misfit of a part": (
        {
            "laws": MISFIT,
            "mixture": {
                "forms": [
                    {"form": "kaplan_nd", "weight": 0.95, "misfit": True},
                    {"form": "power_mean", "weight": 0.05, "misfit": False},
                ]
            },
        },
        "the residuals of power_mean alone have none, with 5% of the weight",
    ),
    "far": ({"prediction": FAR}, "times the largest run"),
    "missed": ({"rollout": MISSED}, "misses the best run by 6.0%"),
    "unbounded": (
        {"warnings": ["chinchilla: the runs do not bound E from below: they are fitted as well"]},
        "do not bound E",
    ),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_a_doubt_reaches_the_verdict_and_the_terminal(name):
    changes, sentence = DOUBTS[name]
    found = laws(**changes)
    assert found.verdict["trusted"] is False
    assert any(sentence in line for line in found.verdict["doubts"])
    shown = " ".join(answer(found, width=10_000).split())
    assert shown.startswith("Verdict: Read with care") and sentence in shown


def test_every_note_is_said_once():
    valleys = [{"used": True}, {"used": False, "reason": "4 sizes near the minimum; 5 are needed"}]
    found = laws(
        laws={**MISFIT, "isoflop": {"valleys": valleys}},
        left_out=[{"cell": "a", "reason": "failed: out of memory"}],
        warnings=["2 duplicated run(s) left out"],
    )
    text = answer(found, width=10_000)
    for sentence in (
        "1 of 2 budgets have no usable valley: 1 because 4 sizes",
        "1 of 31 rows are left out: 1 failed",
        "2 duplicated run(s) left out",
    ):
        assert text.count(sentence) == 1


def test_far_beyond_the_runs_each_form_says_its_own_forecast():
    forms = [
        {"form": "chinchilla", "weight": 0.7, "params": 1e10, "loss": 1.97, "apart": False},
        {"form": "power_mean", "weight": 0.3, "params": 1.4e10, "loss": 1.99, "apart": True},
    ]
    far, near = (
        prediction("mixture", 1.1e10, 8e9, 2e10, flops) | {"forms": forms} for flops in (3e21, 1e21)
    )
    found = laws(prediction=[far])
    (note,) = [line for line in found.notes if "cannot decide" in line]
    assert "chinchilla (70%) N = 1e+10 and a loss of 1.97, power_mean (30%) N = 1.4e+10" in note
    assert "power_mean lies beyond what noise allows chinchilla" in note
    assert found.verdict["doubts"] == []
    assert not any("cannot decide" in line for line in laws(prediction=[near]).notes)


def test_a_law_and_the_mixture_around_it_are_not_two_approaches_that_agree():
    rows = [prediction(name, 1e10, 9e9, 1.1e10) for name in ("mixture", "chinchilla_parametric")]
    assert "approaches agree" not in laws(prediction=rows).verdict["sentence"]


def test_a_headline_of_one_other_form_is_said():
    one = {"forms": [{"form": "gadre", "weight": 1.0, "misfit": False}]}
    assert "the headline is that of the form gadre alone" in laws(mixture=one).notes


def test_a_distance_that_is_a_doubt_is_no_note_as_well():
    text = answer(laws(prediction=FAR, rollout=MISSED), width=10_000)
    assert text.count("times the largest run") == 1


def test_older_files_get_their_verdict_when_they_are_read():
    assert "Verdict: No law could be fitted" in answer({})
    assert verdict.beyond(Laws.from_json({}), 1e20) == ""


def test_the_limit_of_the_tests_is_in_a_verdict_without_doubts():
    fit = {"p": 0.5, "found": False, "undetected": {"flops": 1e21, "relative": 0.008}}
    found = laws(laws={"chinchilla_parametric": {"lack_of_fit": fit}})
    assert found.verdict["trusted"] is True
    assert "these runs cannot show" in found.verdict["sentence"]
    assert "by up to 0.8%" in found.verdict["sentence"]
    assert not any("by up to" in line for line in found.notes)


def test_forms_of_some_weight_are_told_apart_by_the_firsts_own_interval(monkeypatch):
    """N* of 30 lies outside of 9 to 11; a form of 4 % is not told."""
    found = {"a": (10.0, 2.0), "b": (30.0, 2.0), "c": (10.5, 2.1), "d": (50.0, 2.0)}
    named = {
        name: SimpleNamespace(
            form=SimpleNamespace(name=name),
            optimum=lambda flops: SimpleNamespace(
                params=SimpleNamespace(low=9.0, high=11.0), loss=SimpleNamespace(low=1.9, high=2.2)
            ),
        )
        for name in found
    }

    def drawn(law, flops):
        params, loss = found[law.form.name]
        return {"params": (params, None), "loss": (loss, None)}

    monkeypatch.setattr(mixture, "draws", drawn)
    mixed = mixture.Mixture(tuple(named.values()), (0.5, 0.3, 0.16, 0.04))
    told = [(row["form"], row["apart"]) for row in mixed.each_at(1e20)]
    assert told == [("a", False), ("b", True), ("c", False)]
