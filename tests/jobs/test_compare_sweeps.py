"""job=compare_sweeps: variants of a sweep, the journey to its page, and what it refuses."""

import dataclasses
import json

import numpy as np
import pytest

from gptjax import config as configs
from gptjax import experiment
from gptjax.errors import UserError
from gptjax.jobs import compare_sweeps
from gptjax.main import main
from gptjax.report import side_by_side
from gptjax.scaling.laws.side_by_side import FARTHEST_MULTIPLIER
from gptjax.stages.variants import folder_name, variants


def setup_of(*sweeps, **changes):
    config = configs.default_config()
    config.job = "compare_sweeps"
    config.compare.sweeps = sweeps
    config.sweep.update(changes)
    return configs.make_config(config)


def test_a_variant_changes_what_it_names():
    hybrid = "b b: model.layer_pattern=ssm,global sweep.sizes=3"
    found = variants(setup_of("a: optim.b2=0.9", hybrid))
    assert list(found) == ["a", "b b"]
    assert found["a"].optim.b2 == 0.9 and found["b b"].optim.b2 != 0.9
    assert found["b b"].model.layer_pattern == ("ssm", "global") and found["b b"].sweep.sizes == 3
    plain = dataclasses.replace(found["b b"].general, experiment="a")
    assert found["a"].general == plain and plain.job == "sweep"
    assert found["a"].compare.sweeps == ()  # a third sweep does not make its folder another one


def test_texts_are_compared_by_their_weights():
    config = configs.default_config()
    config.job = "compare_sweeps"
    config.compare.sweeps = ("a: data.weights=(1,0)", "b: data.weights=(0,1)")
    config.data.sources = ("raw: source=python-stdlib", "clean: source=python-stdlib")
    config.data.weights = (1.0, 0.0)
    found = variants(configs.make_config(config))
    assert [one.data.weights for one in found.values()] == [(1.0, 0.0), (0.0, 1.0)]


def test_the_experiment_on_cleaning_scores_both_texts_on_a_third():
    config = configs.make_config(experiment.load("experiments/cleaning_sweep.py"))
    assert config.data.targets == (1.0, 0.0, 0.0)
    found = variants(config)
    assert {one.data.weights for one in found.values()} == {(0.0, 1.0, 0.0), (0.0, 0.0, 1.0)}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("optim.b2=0.9", "LABEL: SECTION.KEY=VALUE"),
        (": optim.b2=0.9", "LABEL: SECTION.KEY=VALUE"),
        ("b: optim.b2", "without a value"),
        ("b: report.dpi=60", "settings of model, optim, train, sweep, data"),
        ("b: data.source=text", "each text as one of data.sources"),
        ("b: sweep.budgets=1e9", "for all variants"),
        ("b: model.widht=3", "did you mean width"),
        ("A: optim.b2=0.9", "twice"),
    ],
)
def test_a_wrong_variant_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        variants(setup_of("a: optim.b2=0.8", text))


def test_one_sweep_or_a_grid_compares_nothing():
    with pytest.raises(UserError, match="compares nothing"):
        variants(setup_of("a: optim.b2=0.8"))
    with pytest.raises(UserError, match=r"set sweep\.plan=isoflop"):
        variants(setup_of("a: optim.b2=0.8", "b: optim.b2=0.9", plan="grid"))


def test_the_experiment_compares_five_architectures():
    config = experiment.load("experiments/compare_architectures.py")
    found = variants(configs.make_config(config))
    patterns = {label: setup.model.layer_pattern for label, setup in found.items()}
    assert patterns["Mamba"] == ("ssm",) and patterns["Mamba + attention"][:2] == ("ssm", "global")
    assert found["Mixtral"].model.experts.count > found["Mixtral"].model.experts.per_token
    assert found["GPT-2"].model.use_bias and not found["Llama"].model.use_bias


EXPERIMENT = """
from gptjax import config as configs

def get_config():
    config = configs.default_config()
    config.job = "compare_sweeps"
    config.compare.sweeps = (
        "slow: optim.learning_rate=1e-3", "fast: optim.learning_rate=3e-2",
    )
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config
"""


@pytest.fixture
def command(tmp_path):
    """The flags of a tiny comparison of two learning rates on a generated text."""
    (tmp_path / "text").mkdir()
    for i in range(40):
        text = " ".join(f"word{(i * k) % 17}" for k in range(60))
        (tmp_path / "text" / f"{i}.txt").write_text(text)
    settings = {
        "data.source": "text",
        "data.path": tmp_path / "text",
        "data.cache_dir": tmp_path / "cache",
        "data.heldout_fraction": 0.2,
        "model.depth": 1,
        "model.width": 16,
        "model.mlp_width": 32,
        "model.seq_len": 16,
        "sweep.budgets": "5e8,1e9,2e9",
        "sweep.widths": "8,16,24",
        "sweep.rule": "fixed",
        "sweep.workers": 1,
        "train.batch_size": 8,
        "fit.resamples": 40,
        "report.formats": "png,",
        "report.dpi": 50,
    }
    path = tmp_path / "experiment.py"
    path.write_text(EXPERIMENT)
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["gptjax", f"--config={path}", f"--workdir={tmp_path / 'run'}", *flags]


def test_the_plan_of_all_sweeps(command, capsys):
    assert main([*command, "--config.job=plan"]) == 0
    printed = capsys.readouterr().out
    assert "sweep of slow" in printed and "all sweeps: predicted" in printed


@pytest.mark.slow
def test_the_job_trains_compares_and_knows_when_it_is_done(command, capsys, tmp_path):
    folder = tmp_path / "run"
    assert main(command) == 0
    capsys.readouterr()
    content = json.loads((folder / "comparison.json").read_text())
    assert [law["runs"] for law in content["laws"].values()] == [9, 9]
    # Thirty times the rate: lower at every budget, and told apart.
    rows = [row for row in content["standings"] if row["label"] == "fast"]
    assert all(row["difference"]["high"] < 0 for row in rows[:3])
    assert (folder / "fast" / "report.html").exists()
    before = (folder / "comparison.json").read_text()
    assert main(command) == 0
    assert "Plan" not in capsys.readouterr().out
    assert (folder / "comparison.json").read_text() == before


def table(data, seed):
    """A runs.csv of L = 0.7 + 30 N^-0.36 + data·55 D^-0.33, one failed run among them."""
    rng = np.random.default_rng(seed)
    lines = ["cell,status,reason,params_non_embedding_with_head,tokens,flops,budget,loss"]
    for flops in (1e12, 2e12, 4e12):
        for ratio in np.geomspace(0.3, 3.0, 5):
            params = ratio * (flops / 6) ** 0.5 / 5
            tokens = flops / 6 / params
            loss = (0.7 + 30 * params**-0.36 + data * 55 * tokens**-0.33) * rng.normal(1, 0.003)
            lines.append(f"c{len(lines)},done,,{params},{tokens},{flops},{flops},{loss}")
    lines.append("c99,failed,loss was NaN,1e5,1e6,1e12,1e12,")
    return "\n".join(lines) + "\n"


def test_the_comparison_of_two_tables(tmp_path, capsys):
    setup = setup_of("All data: optim.b2=0.9", "Less & less: optim.b2=0.8", budgets=(1e12, 4e12))
    report = dataclasses.replace(setup.report, formats=("png",), dpi=50)
    setup = dataclasses.replace(setup, report=report)
    asked = variants(setup)
    for i, label in enumerate(asked):
        folder = tmp_path / folder_name(label)
        (folder / "timing").mkdir(parents=True)
        (folder / "runs.csv").write_text(table((1.0, 0.8)[i], i))
        (folder / "timing" / "c1.json").write_text('{"seconds": 90.0}')
        (folder / "corpus.json").write_text('{"bytes per token": "1.0"}')
    compare_sweeps.compare(setup, tmp_path, asked)
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["reference"] == "All data" and content["beyond"] == 4e13
    rows = {(row["label"], row["flops"]): row for row in content["standings"]}
    for flops in (1e12, 4e12):
        found = rows["Less & less", flops]["multiplier"]
        assert found["low"] < 0.8 ** (-1 / 0.33) < found["high"]  # the closed form
        assert rows["Less & less", flops]["difference"]["high"] < 0
    page = (tmp_path / "report.html").read_text()
    assert '<a href="less_less/report.html">Less &amp; less</a>' in page
    assert "<b>Less &amp; less</b> reaches the lowest loss" in page and "optim.b2=0.8" in page
    assert "15, 1 left out" in page and "1 min 30 s" in page and page.count("<svg") == 2
    assert {path.name for path in (tmp_path / "figures").iterdir()} == {
        "frontiers.png",
        "multipliers.png",
    }
    assert "Less & less" in capsys.readouterr().out


def test_multipliers_up_to_the_farthest_lie_inside_their_figure():
    farthest = FARTHEST_MULTIPLIER

    def row(label, flops, value, low, high):
        interval = {"value": value, "low": low, "high": high}
        return {"label": label, "flops": flops, "multiplier": interval}

    rows = [row("a", c, 1.0, 1.0, 1.0) for c in (1e10, 2e10)]
    rows += [row("b", 1e10, 7.5, 6.4, 9.3), row("b", 2e10, 15.2, 7.1, farthest)]
    content = {"laws": {"a": {}, "b": {}}, "budgets": [1e10, 2e10], "reference": "a"}
    with side_by_side.style.drawing():
        figure, ax = side_by_side.style.new_figure()
        side_by_side.draw_multipliers(ax, content | {"standings": rows})
        side_by_side.style.settle(figure)
    low, high = ax.get_ylim()
    assert 0.5 < low < 1.0 and farthest < high
    heights = [
        ax.transAxes.inverted().transform(ax.transData.transform((1e10, y)))[1]
        for y in (1.0, 10.0, farthest)
    ]
    assert 0 < heights[0] < 0.1 and heights[1] - heights[0] > 0.3 < heights[2] - heights[1]
    assert side_by_side._multiplier(farthest) == f"≥ {farthest:g}"
    assert side_by_side._multiplier(15.2) == "15.2"
    assert side_by_side._multiplier(1 / farthest) == f"≤ {1 / farthest:g}"
