"""Tuning through a config: alone, before a sweep, and found again by the jobs after it."""

import contextlib
import csv
import html
import io
import json

import pytest
from test_kill import CALM, arguments, finish_here, place, workers_here  # noqa: F401

from gptjax.main import main

TUNED = {
    **CALM,
    "sweep.tune": True,
    "sweep.tune_sizes": 2,
    "sweep.tune_factors": "(1,2,4,8,16)",
    "optim.learning_rate": 1e-3,
    "sweep.budgets": "(5e8,1e9)",
}


@pytest.fixture(scope="module", autouse=True)
def workers():
    with workers_here():
        yield


@pytest.fixture(scope="module")
def tuned(place):  # noqa: F811
    """A finished sweep that tuned first, the flags that made it and what it printed."""
    workdir, printed = place / "tuned", io.StringIO()
    with contextlib.redirect_stdout(printed), pytest.MonkeyPatch.context() as patch:
        patch.setattr("gptjax.report.html.choose_plots", lambda *_: [])
        finish_here(place, workdir, page=True, **TUNED)
    return workdir, ["gptjax", *arguments(place, workdir, **TUNED)[3:]], printed.getvalue()


def test_a_sweep_trains_with_the_rates_that_its_tuning_found(tuned):
    workdir, _, output = tuned
    found = json.loads((workdir / "tune.json").read_text())
    assert found["sentence"] in " ".join(output.split()) and "tuning: 10 runs at 2 sizes" in output
    factor, low, high = found["factor"]
    # A rate of 1e-3 is far too low for such models; losses of every run of the tuning are kept.
    # On some processors only one size has its minimum inside, which gives no interval.
    assert factor > 2.0
    assert low is high is None or low <= factor <= high
    rows = list(csv.DictReader((workdir / "runs.csv").open()))
    exponent = found["exponent"][0] if found["uses_exponent"] else 0.0
    for row in rows:
        size = float(row["params_non_embedding_with_head"])
        wanted = 1e-3 * factor * (size / found["params"]) ** exponent
        assert float(row["learning_rate"]) == pytest.approx(wanted, rel=0.01)
    assert found["sentence"] in html.unescape((workdir / "report.html").read_text())


def test_the_jobs_after_it_find_the_tuning(tuned, capsys, monkeypatch):
    monkeypatch.setattr("gptjax.report.build", lambda *_, **__: "not drawn")
    workdir, flags, _ = tuned
    records = sorted((workdir / "records").iterdir())
    for job in ("sweep", "fit", "work", "tune"):
        assert main([*flags, f"--config.job={job}"]) == 0
    output = capsys.readouterr().out
    assert "tuning: 10 runs" not in output and "--config.sweep.learning_rate_scale=" in output
    assert sorted((workdir / "records").iterdir()) == records


def test_the_plan_says_that_it_would_tune_or_what_it_found(tuned, capsys, tmp_path):
    workdir, flags, _ = tuned
    elsewhere = [flag for flag in flags if not flag.startswith("--workdir")]
    assert main([*elsewhere, f"--workdir={tmp_path}", "--config.job=plan"]) == 0
    before = capsys.readouterr().out
    assert "before them 10 runs tune the learning rate" in before and "0.001 │" in before
    assert main([*flags, "--config.job=plan"]) == 0
    after = capsys.readouterr().out
    assert "before them" not in after
    rows = csv.DictReader((workdir / "runs.csv").open())
    assert all(f"{float(row['learning_rate']):.3g} │" in after for row in rows)
