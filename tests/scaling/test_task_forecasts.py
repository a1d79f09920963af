"""Task forecasts: a known truth is inside, flat and emergent tasks named, wrong tables refused."""

import json
from pathlib import Path

import numpy as np
import pytest
from known_runs import published

from gptjax.errors import UserError
from gptjax.main import main
from gptjax.scaling.tasks import LAWS, forecast, laws, read_scores
from gptjax.scaling.tasks.least_squares import solve

REPO = Path(__file__).parents[2]
SIZES = np.array([1e8, 2e8, 4e8, 8e8])
RATIOS = (10.0, 20.0, 40.0, 100.0)
TARGETS = [(1.6e9, 1.6e9 * 40), (3.2e9, 3.2e9 * 20)]


def truth(params, tokens):
    """(task loss, scores of a rising, a flat and an emergent task)."""
    loss = 0.5 + 60.0 / params**0.27 + 300.0 / tokens**0.3
    rising = 0.25 + 0.7 / (1 + np.exp(5.0 * (loss - 1.2)))
    emergent = 0.25 + 0.7 / (1 + np.exp(30.0 * (loss - 1.0)))
    return loss, {"rising": rising, "flat": np.full_like(loss, 0.25), "emergent": emergent}


def ladder(noise=0.004, seed=0):
    """Four sizes at four ratios, each with three checkpoints."""
    rng = np.random.default_rng(seed)
    rows = []
    for n in SIZES:
        for ratio in RATIOS:
            for part in (0.5, 0.75, 1.0):
                tokens = np.array([n * ratio * part])
                loss, scores = truth(np.array([n]), tokens)
                row = {"run": f"{n:g}-{ratio:g}", "params": n, "tokens": tokens[0]}
                row["final"], row["loss"] = int(part == 1.0), 3 * loss[0]
                for task, score in scores.items():
                    row[f"{task}_acc"] = float(np.clip(score[0] + noise * rng.normal(), 0, 1))
                    row[f"{task}_bpb"] = float(loss[0] * np.exp(0.3 * noise * rng.normal()))
                rows.append(row)
    return rows


CHANCE = dict.fromkeys(("rising", "flat", "emergent"), 0.25)


@pytest.fixture(scope="module")
def found():
    return forecast(read_scores(ladder(), chance=CHANCE), TARGETS, resamples=20)


def test_the_truth_is_inside_and_the_shapes_are_named(found):
    rising, flat, emergent = found.tasks
    assert (rising.shape, flat.shape, emergent.shape) == ("rising", "flat", "emergent")
    assert rising.verdict == "predictable" and flat.verdict == "only its loss"
    for task in (rising, emergent):
        for target, size in zip(task.targets, TARGETS, strict=True):
            loss, scores = truth(*(np.array([x]) for x in size))
            assert target.low <= scores[task.task][0] <= target.high
            assert target.task_loss_low <= loss[0] <= target.task_loss_high
    assert all("is not above" in t.refused or "moves from" in t.refused for t in flat.targets)
    assert rising.targets[0].high - rising.targets[0].low < 0.1
    assert set(rising.weights) == set(LAWS) and sum(rising.weights.values()) == pytest.approx(1)


def test_an_interval_grows_with_the_distance(found):
    near, far = (
        forecast(read_scores(ladder(), ("rising",), chance=CHANCE), [size], resamples=20)
        for size in ((1.6e9, 3.2e10), (1.6e11, 3.2e12))
    )
    widths = [one.tasks[0].targets[0].high - one.tasks[0].targets[0].low for one in (near, far)]
    assert widths[1] > 1.5 * widths[0]


@pytest.mark.parametrize("name", LAWS)
def test_each_law_finds_the_truth_of_its_own_form(name):
    scores = read_scores(ladder(noise=1e-4), chance=CHANCE)
    predict = LAWS[name].fit(scores, "rising", np.ones((1, 16)))
    said = predict(*(np.array([x]) for x in TARGETS[0]))[0, 0]
    true = truth(*(np.array([x]) for x in TARGETS[0]))[1]["rising"][0]
    own = name in ("two_step", "own_loss")
    assert said == pytest.approx(true, abs=0.012 if own else 0.05)


def test_without_losses_the_direct_laws_remain():
    rows = [{k: v for k, v in row.items() if k[-4:] not in ("_bpb", "loss")} for row in ladder()]
    made = forecast(read_scores(rows, ("rising",), chance=CHANCE), TARGETS[:1], resamples=10)
    assert set(made.tasks[0].weights) == {"direct", "direct_nd"}
    assert np.isnan(made.tasks[0].targets[0].task_loss)


def test_a_task_is_forecast_from_the_rows_that_have_its_score():
    whole = ladder()
    known = [row for row in whole if row["run"] != whole[0]["run"]]
    holes = [row if row in known else row | {"rising_acc": None} for row in whole]

    def said(rows, task):
        scores = read_scores(rows, (task,), chance=CHANCE)
        return forecast(scores, TARGETS, laws=("direct",), resamples=10).tasks[0].targets

    assert said(holes, "rising") == said(known, "rising") != said(whole, "rising")
    assert said(holes, "flat") == said(whole, "flat")
    none = [row | {"rising_acc": None} for row in whole]
    with pytest.raises(UserError, match="the scores of rising are of 0 sizes and 0 runs"):
        said(none, "rising")
    with pytest.raises(UserError, match="need columns that rising has not"):
        forecast(
            read_scores(
                [{k: v for k, v in row.items() if k[-4:] != "_bpb"} for row in whole], ("rising",)
            ),
            TARGETS,
            laws=("two_step",),
            resamples=10,
        )


def test_least_squares_are_those_of_a_line_by_hand():
    x, y = np.array([0.0, 1.0, 2.0]), np.array([1.0, 3.0, np.nan])
    theta = solve(
        lambda theta: theta[:, [0]] + theta[:, [1]] * x,
        y,
        np.ones((1, 3)),
        np.zeros(2),
        np.full(2, 1e6),
    )
    np.testing.assert_allclose(theta, [[1.0, 2.0]], atol=1e-5)


def test_components_are_those_of_the_singular_values():
    rows = np.array([[1.0, -1.0, 2.0], [2.0, -2.0, 4.0]])
    axes, share = laws._components(rows - rows.mean(1, keepdims=True))
    np.testing.assert_allclose(axes[:, 0], [1 / np.sqrt(5), 2 / np.sqrt(5)], atol=1e-12)
    assert share[0] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        ({"rising_acc": 57.0}, {}, "row 1: rising_acc=57 is outside 0..1; give scores as shares"),
        ({"rising_acc": float("inf")}, {}, "rising_acc=inf is outside 0..1"),
        ({"rising_acc": "good"}, {}, "rising_acc='good' is not a number"),
        ({"rising_bpb": -1.0}, {}, "rising_bpb=-1 is no loss"),
        ({"params": 0.0}, {}, "params=0; every count"),
        ({}, {"tasks": ("risng",)}, "did you mean rising"),
        ({}, {"score_suffix": "_em"}, "no column that ends in _em"),
        ({}, {"params_below": 1e8}, "has 4 runs with scores, and a forecast needs 6"),
    ],
)
def test_a_wrong_table_is_one_sentence(change, options, words):
    rows = ladder()
    rows[0] = rows[0] | change
    with pytest.raises(UserError) as error:
        forecast(read_scores(rows, **options), TARGETS)
    assert words in str(error.value)


def run(tmp_path, *flags):
    path = tmp_path / "scores.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ladder()))
    return main(
        [
            "gptjax",
            f"--config={REPO / 'experiments' / 'forecast.py'}",
            f"--config.forecast.table={path}",
            f"--workdir={tmp_path / 'out'}",
            "--config.report.formats=png",
            "--config.report.dpi=50",
            *flags,
        ]
    )


def test_the_job_writes_forecasts_and_a_figure(tmp_path, capsys):
    flags = [f"--config.forecast.{name}" for name in ("params=8e8", "tokens=1.6e10")]
    flags += [
        "--config.forecast.fit_below=5e8",
        "--config.forecast.chance=rising=0.25,flat=0.25,emergent=0.25",
    ]
    flags += ["--config.forecast.laws=direct,two_step", "--config.forecast.resamples=10"]
    assert run(tmp_path, *flags) == 0
    made = json.loads((tmp_path / "out" / "forecast.json").read_text())
    assert [task["task"] for task in made["tasks"]] == ["rising", "flat", "emergent"]
    assert set(made["tasks"][0]["weights"]) == {"direct", "two_step"}
    assert (tmp_path / "out" / "figures" / "forecast.png").exists()
    measured = {row["task"]: row for row in made["measured"]}
    (true,) = [row for row in ladder() if row["final"] and row["run"] == "8e+08-20"]
    assert {name: row["measured"] for name, row in measured.items()} == {
        task: true[f"{task}_acc"] for task in CHANCE
    }
    assert measured["flat"]["refused"] and measured["rising"]["params"] == 8e8
    assert "measured scores inside" in capsys.readouterr().out


def test_the_job_refuses_in_one_sentence(tmp_path, capsys):
    good = ["--config.forecast.params=1.6e9", "--config.forecast.tokens=3.2e10"]
    for flags, words in (
        ([], "has 0 entries"),
        ([*good, "--config.forecast.laws=twostep"], "did you mean two_step"),
        ([*good, "--config.forecast.chance=rising"], "give task=0.25"),
        ([*good, "--config.forecast.table=/nowhere.csv"], "is not a file"),
    ):
        assert run(tmp_path, *flags) == 2
        assert words in capsys.readouterr().err


@pytest.mark.slow
def test_the_public_ladder_is_forecast_to_three_billion():
    """Sixteen targets, 20 seconds of a processor: pytest -m slow tests/scaling -k public_ladder."""
    path = published("olmo_ladder/checkpoints.csv")
    every = read_scores(path)
    large = every.final & (every.params > 2e9)
    large &= np.isin(np.round(every.tokens / every.params / 20), (2, 10))
    where = np.flatnonzero(large)
    targets = list(zip(every.params[where], every.tokens[where], strict=True))
    found = forecast(read_scores(path, params_below=2e9), targets)
    assert len(found.tasks) == 8 and len(targets) == 2
    pairs = [
        (target, every.score[task.task][row])
        for task in found.tasks
        for target, row in zip(task.targets, where, strict=True)
    ]
    refused = sum(bool(target.refused) for target, _ in pairs)
    right = sum(bool(t.refused) or t.low <= true <= t.high for t, true in pairs)
    assert right >= 15 and refused <= 4
