"""job=test_time_compute: shares by hand, equal costs, refusals, and the whole at a tiny size."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from gptjax import config as configs
from gptjax import experiment
from gptjax.errors import UserError
from gptjax.jobs import test_time_compute as job
from gptjax.main import main
from gptjax.report import answers as figures
from gptjax.scaling.laws.repeated_sampling import Power

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "test_time_compute.py"
SETTINGS = job.Settings(samples=8, resamples=20)


def asked(params, texts, scores, truth="7"):
    right = np.array([[text == truth for text in texts]])
    return job.Asked(params, [texts], right, np.array([scores]), [truth])


SMALL = asked(100, [*"71177125"], [-1.0, -0.5, -2.0, -1.1, -1.2, -3.0, -4.0, -5.0])
LARGE = asked(400, [*"72777777"], [-0.1, -1.0, -0.2, -0.3, -0.2, -0.1, -0.2, -0.3])


def test_shares_are_means_over_all_choices():
    texts, scores = SMALL.texts_Qn[0], SMALL.scores_Qn[0]
    for k in (1, 2, 5):
        choices = [*itertools.combinations(range(8), k)]
        one = np.mean(["7" in [texts[i] for i in some] for some in choices])
        likeliest = np.mean([texts[max(some, key=lambda i: scores[i])] == "7" for some in choices])
        assert SMALL.shares("one", k)[0] == pytest.approx(one)
        assert SMALL.shares("likeliest", k)[0] == pytest.approx(likeliest)
    assert SMALL.shares("majority", 1)[0] == pytest.approx(3 / 8, abs=0.07)
    assert LARGE.shares("majority", 5)[0] == 1.0


def test_models_are_compared_at_equal_cost():
    """Four answers of the small one cost as one of the large one; sixteen were not made."""
    rows = job.at_equal_cost([SMALL, LARGE], SETTINGS)
    assert [(row["kind"], row["samples"], row["of_largest"]) for row in rows] == [
        (kind, 4, 1) for kind in job.KINDS
    ]
    one = rows[0]
    assert one["gain"] == pytest.approx(SMALL.shares("one", 4)[0] - 7 / 8)
    assert one["low"] == one["gain"] == one["high"]  # of one question


def test_figures_are_drawn(tmp_path):
    rows = [row for one in (SMALL, LARGE) for row in job.shares_of(one, SETTINGS)]
    paths = figures.draw(tmp_path, rows, Power(2.0, 0.2, 0.5), ("png",), 50)
    assert [path.name for path in paths] == ["samples.png", "answer_cost.png"]
    assert all(path.exists() for path in paths)


def test_shares_are_written_where_no_law_can_be_fitted(tmp_path, monkeypatch, capsys):
    """Every answer is wrong: the table and the figures are there, then the reason."""
    wrong = {width: asked(10 * width, [*"99999999"], [-1.0] * 8) for width in (8, 16, 24)}
    monkeypatch.setattr(job, "_asked", lambda config, corpus, width, *rest: wrong[width])
    monkeypatch.setattr(job, "load_corpus", lambda config: None)
    monkeypatch.setattr(job, "questions", lambda corpus, most: [])
    raw = experiment.load(str(EXPERIMENT))
    raw["test_time_compute"]["widths"], raw["test_time_compute"]["samples"] = (8, 16, 24), 8
    raw["report"]["formats"], raw["report"]["dpi"] = ("png",), 50
    assert job.main(configs.make_config(raw), tmp_path) == 0
    found = json.loads((tmp_path / "test_time_compute.json").read_text())
    assert len(found["rows"]) == 12 and "law" not in found
    assert found["refused"].startswith("0 shares of solved questions are between")
    assert f"no law of samples and sizes: {found['refused']}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"data.source": "python-stdlib"}, "has no answers that can be checked"),
        ({"test_time_compute.widths": (8, 16)}, "too few sizes for a law"),
        ({"test_time_compute.widths": (8, 16, 18)}, "has 18, no multiple of"),
        ({"data.arithmetic.digits": 1}, "more than the 100 different questions"),
    ],
)
def test_mistakes_are_told(changes, sentence):
    config = experiment.load(str(EXPERIMENT))
    for name, value in changes.items():
        section, _, key = name.rpartition(".")
        holder = config
        for part in section.split("."):
            holder = holder[part]
        holder[key] = value
    with pytest.raises(UserError, match=sentence):
        configs.load_corpus(configs.make_config(config))


@pytest.mark.slow
def test_the_whole_at_a_tiny_size(tmp_path, capsys):
    """Three widths on sums of one digit; started again, nothing is trained."""
    flags = {
        "data.arithmetic.digits": 1,
        "data.arithmetic.problems": 100,
        "data.heldout_fraction": 0.3,
        "data.cache_dir": tmp_path / "cache",
        "model.depth": 1,
        "model.seq_len": 32,
        "train.tokens": 60_000,
        "test_time_compute.widths": "(8,12,16)",
        "test_time_compute.questions": 12,
        "test_time_compute.samples": 16,
        "report.formats": "png",
    }
    flags = [f"--config.{name}={value}" for name, value in flags.items()]
    command = ["gptjax", f"--config={EXPERIMENT}", f"--workdir={tmp_path / 'run'}", *flags]
    assert main(command) == 0
    found = json.loads((tmp_path / "run" / "test_time_compute.json").read_text())
    assert len(found["rows"]) == 15 and found["form"] in ("beta", "power")
    for row in found["rows"]:
        assert row["one"] >= row["likeliest"] - 1e-9
        noise = 0.0 if row["samples"] == 1 else 0.01  # majorities of drawn subsets
        assert row["one"] >= row["majority"] - noise - 1e-9
    models = sorted((tmp_path / "run").glob("width-*"))
    times = [path.stat().st_mtime_ns for path in models]
    assert main(command) == 0 and len(models) == 3
    assert [path.stat().st_mtime_ns for path in models] == times
    assert json.loads((tmp_path / "run" / "test_time_compute.json").read_text()) == found
