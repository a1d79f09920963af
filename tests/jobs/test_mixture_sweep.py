"""job=mixture_sweep: mixtures trained, a law, the best one checked; and what it refuses."""

import csv
import json

import numpy as np
import pytest
from test_kill import place, workers_here  # noqa: F401

from gptjax.errors import UserError
from gptjax.main import main
from gptjax.report import html
from gptjax.sweeps.mixtures import drawn, rounded


def flags(place, workdir, **settings):  # noqa: F811
    """Words, and letters at random, which say nothing of words."""
    noise = place / "noise"
    if not noise.exists():
        noise.mkdir()
        rng = np.random.default_rng(0)
        for i in range(30):
            (noise / f"{i}.txt").write_text("".join(rng.choice(list("ijklmnopqrst "), 1200)))
    sources = tuple(
        f"{label}: source=text path={place / folder} heldout_fraction=0.1"
        for label, folder in (("words", "text"), ("noise", "noise"))
    )
    settings = {
        "job": "mixture_sweep",
        "data.sources": str(sources),
        "data.weights": "(0.5,0.5)",
        "data.targets": "(1,0)",
        "data.repeats": 99,
        "data.cache_dir": place / "cache",
        "model.depth": 1,
        "model.seq_len": 32,
        "sweep.plan": "grid",
        "sweep.widths": "(16,20)",
        "sweep.tokens": 8e3,
        "sweep.head_width": 4,
        "sweep.rule": "fixed",
        "sweep.workers": 1,
        "train.batch_size": 8,
        "optim.learning_rate": 2e-2,
        "mixture_sweep.mixtures": 6,
        "mixture_sweep.checks": 1,
        "mixture_law.form": "log_linear",
        "mixture_law.folds": 4,
        "mixture_law.resamples": 20,
        "report.formats": "('png',)",
        "report.dpi": 50,
        **settings,
    }
    named = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["gptjax", "--config=experiments/mixture_sweep.py", f"--workdir={workdir}", *named]


@pytest.fixture
def from_a_plain_config(monkeypatch):
    """The job alone: the shipped experiment reads the standard library first."""
    from gptjax import experiment
    from gptjax.config import default_config

    monkeypatch.setattr(experiment, "load", lambda name: default_config().to_dict())


@workers_here()
def test_what_is_useless_gets_no_weight_and_the_check_stands(
    place,  # noqa: F811
    tmp_path,
    capsys,
    monkeypatch,
    from_a_plain_config,
):
    monkeypatch.setattr(html, "choose_plots", lambda *_: [])
    workdir = tmp_path / "sweep"
    assert main(flags(place, workdir)) == 0
    said = capsys.readouterr().out
    found = json.loads((workdir / "mixture.json").read_text())
    assert found["weights"]["words"]["value"] > 0.9
    assert found["weights"]["noise"]["prior"] == pytest.approx(0.5)
    assert "Mix words" in said and "Held-out check at" in said
    with (workdir / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 7 + 3  # a size of the plan; best, prior and one at the largest
    check = found["check"]
    assert len(check["rows"]) == 3 and {"best", "prior"} <= set(check)
    for row in check["rows"]:  # thirty steps of a tiny model
        assert row["measured"] == pytest.approx(row["predicted"], rel=0.1)
    assert set(found["laws"]) == {"words", "(loss of runs)"}
    assert "</html>" in (workdir / "report.html").read_text()
    assert main(flags(place, workdir)) == 0  # nothing is trained again
    assert json.loads((workdir / "mixture.json").read_text()) == found


@pytest.mark.parametrize(
    "settings, words",
    [
        ({"data.sources": "()", "data.weights": "()", "data.targets": "()"}, "two or more"),
        ({"data.phases": 0.5, "data.weights": "(0.5,0.5,0.5,0.5)"}, "leave it out"),
        ({"mixture_sweep.mixtures": 5}, "give at least 6"),
        ({"data.weights": "(1,0)"}, "leaves a source out"),
        ({"sweep.widths": 8}, "give more widths"),
        ({"data.repeats": 0.1}, "more than data.repeats=0.1"),
    ],
)
def test_a_plan_that_cannot_give_a_law_is_refused(
    place,  # noqa: F811
    tmp_path,
    capsys,
    from_a_plain_config,
    settings,
    words,
):
    assert main(flags(place, tmp_path / "sweep", **settings)) == 2
    assert words in capsys.readouterr().err


def test_draws_have_the_prior_as_their_mean_and_exact_weights():
    prior = (0.6, 0.3, 0.1)
    found = np.array(drawn(prior, 4000, 1.0, 0))
    assert tuple(found[0]) == prior
    np.testing.assert_allclose(found.mean(0), prior, atol=0.02)
    units = found * 10_000
    np.testing.assert_allclose(units, np.round(units), atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-9)
    near = np.array(drawn(prior, 4000, 10.0, 0))
    assert near.std(0).max() < found.std(0).max() / 2
    assert rounded((1 / 3, 1 / 3, 1 / 3)) == (0.3334, 0.3333, 0.3333)
    with pytest.raises(UserError, match="leaves a source out"):
        drawn((1.0, 0.0), 3, 1.0, 0)
