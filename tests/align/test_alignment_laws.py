"""Laws of alignment: estimators by hand, fits that recover known laws, and both jobs, small."""

import itertools
import json
import math

import numpy as np
import pytest
from aligned import EXPERIMENTS

from gptjax import scaling
from gptjax.align import best_of_n, tasks
from gptjax.align.rewards import Asked
from gptjax.config import default_config, make_config
from gptjax.jobs import finetuning_transfer, reward_overoptimization
from gptjax.main import main
from gptjax.scaling.forms import overoptimization
from gptjax.scaling.forms.transfer import effective_data
from gptjax.stages import overoptimization_laws, transfer_law

FEW = {"resamples": 60, "starts": 8}


def config_of(job):
    given = default_config()
    given.job = job
    given.train.steps = 8
    given.fit.update(FEW)
    return make_config(given)


def test_best_of_n_is_the_mean_over_all_subsets():
    draw = np.random.default_rng(0)
    rank, value = draw.standard_normal((2, 1, 7))
    for n in range(1, 8):
        subsets = [list(some) for some in itertools.combinations(range(7), n)]
        wanted = np.mean([value[0, some[int(np.argmax(rank[0, some]))]] for some in subsets])
        found = best_of_n.expected(rank, value, [n])
        assert float(found[0, 0]) == pytest.approx(float(wanted), rel=1e-9)


def test_the_kl_of_best_of_n_is_that_of_the_order_statistic():
    """Uniform ranks: the best of n has the density p = n u^(n−1), and KL = ∫ p ln p."""
    u = (np.arange(400_000) + 0.5) / 400_000
    for n in (2, 5, 16):
        density = n * u ** (n - 1)
        assert best_of_n.kl_bound(n) == pytest.approx(np.mean(density * np.log(density)), abs=1e-4)
    assert best_of_n.kl_bound(1) == 0.0


def test_where_answers_are_equal_the_kl_is_below_the_bound():
    """Two answers of one half each: the best of n is the better one in 1 − 2^−n."""
    for n in (2, 4):
        p = np.array([0.5**n, 1 - 0.5**n])
        assert np.sum(p * np.log(p / 0.5)) < best_of_n.kl_bound(n)


def test_the_gold_reward_is_highest_at_the_wanted_number_of_capitals():
    gold = [tasks.emphasis(Asked({"best": 3}, "A" * n + "b", True, "")) for n in range(8)]
    assert int(np.argmax(gold)) == 3 and gold[0] == gold[6] == 0.0


def points(method, alpha, beta, seeds=3):
    form = overoptimization_laws.METHODS[method]
    draw = np.random.default_rng(1)
    return [
        {
            "method": method,
            "pairs": pairs,
            "seed": seed,
            "kl": d * d,
            "gold": float(form.loss({"alpha": alpha, "beta": b}, {"distance": d}))
            + 0.002 * draw.standard_normal(),
            "proxy": d,
        }
        for pairs, b in ((64, beta), (256, beta / 2))
        for seed in range(seeds)
        for d in np.linspace(0.3, 3.0, 10)
    ]


def test_laws_of_overoptimization_are_recovered_with_their_peaks(tmp_path):
    rows = points("best_of_n", 0.6, 0.2) + points("rl", 0.4, 0.3)
    config = config_of("reward_overoptimization")
    content = overoptimization_laws.write(config, tmp_path, rows)
    laws = json.loads((tmp_path / "laws.json").read_text())["laws"]
    for name, alpha, beta, peak in (
        ("best_of_n_64", 0.6, 0.2, 1.5),
        ("best_of_n_256", 0.6, 0.1, 3.0),
        ("rl_64", 0.4, 0.3, math.exp(1 / 3)),
    ):
        found = laws[name]["params"]
        assert found["alpha"]["value"] == pytest.approx(alpha, abs=0.01)
        assert found["beta"]["value"] == pytest.approx(beta, abs=0.01)
        assert laws[name]["peak_distance"]["value"] == pytest.approx(peak, rel=0.1)
        assert found["alpha"]["low"] < found["alpha"]["value"] < found["alpha"]["high"]
    slope = content["data"]["slopes"]["rl"]["beta"]["value"]
    assert slope == pytest.approx(-0.15 / math.log(4), abs=0.02)
    assert "highest at d = 1.5" in content["notes"][0]
    assert (tmp_path / "report.html").stat().st_size > 10_000
    assert len(scaling.Table.read(tmp_path / "points.csv")) == len(rows)


def test_a_gold_reward_that_only_rises_has_no_peak():
    found = overoptimization.peak(overoptimization.REINFORCEMENT, {"alpha": 1.0, "beta": -0.1})
    assert np.isnan(found)


def test_effective_data_is_read_between_the_runs_from_scratch():
    tokens = np.array([100.0, 1000.0, 10_000.0])
    losses = 5.0 * tokens**-0.1
    assert effective_data(tokens, losses, 5.0 * 3000.0**-0.1) == pytest.approx(3000.0)
    assert np.isnan(effective_data(tokens, losses, 1.0)) and np.isnan(
        effective_data(tokens, losses, 9.0)
    )
    noisy = [4.0, 3.0, 3.1, 2.0]  # the third is worse than with fewer tokens
    assert effective_data([1, 2, 3, 4], noisy, 2.5) > 3.0
    # A loss of 5 after one of 4 counts as 4: half of the way in ln L is sqrt(200 · 400) tokens.
    assert effective_data([100, 200, 400], [4, 5, 1], 2) == pytest.approx(np.sqrt(200 * 400))


def run_of(params, tokens, pretrained, worth):
    loss = 9.0 * worth**-0.1
    return {"params": params, "tokens": tokens, "pretrained": pretrained, "loss": loss}


def transfers(k=500.0, alpha=0.2, beta=0.4):
    """Runs whose effective data follow the law exactly."""
    rows = []
    for params in (1e4, 4e4, 16e4):
        for tokens in 2.0 ** np.arange(9, 22):
            rows.append(run_of(params, tokens, 0, tokens))
        for tokens in 2.0 ** np.arange(10, 14):
            whole = tokens + k * tokens**alpha * (params / 1e4) ** beta
            rows.append(run_of(params, tokens, 1, whole))
    return rows


def test_the_law_of_transfer_is_recovered(tmp_path):
    content = transfer_law.write(config_of("finetuning_transfer"), tmp_path, transfers())
    found = content["laws"]["effective_data_transferred"]["params"]
    assert found["alpha"]["value"] == pytest.approx(0.2, abs=0.01)
    assert found["beta"]["value"] == pytest.approx(0.4, abs=0.01)
    assert found["k"]["value"] == pytest.approx(500.0 / 1e4**0.4, rel=0.1)
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_runs_without_effective_data_are_left_out_with_the_reason():
    rows = transfers()
    rows[13]["loss"] = 0.1
    points, left_out = transfer_law.transferred(rows)
    assert len(points) == 11 and "below every one from scratch" in left_out[0]["reason"]


def command(experiment, workdir, **settings):
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    path = EXPERIMENTS / f"{experiment}.py"
    return main(["gptjax", f"--config={path}", f"--workdir={workdir}", *flags])


@pytest.mark.parametrize(
    ("experiment", "settings", "said"),
    [
        ("reward_overoptimization", {"reward_overoptimization.length": 40}, "needs 65 tokens"),
        ("reward_overoptimization", {"reward_overoptimization.pairs": "64"}, "nothing to compare"),
        ("finetuning_transfer", {"finetuning_transfer.widths": "16"}, "too few for a law"),
        ("finetuning_transfer", {"finetuning_transfer.target_bytes": 9000}, "hold about"),
    ],
)
def test_what_gives_no_law_is_refused_before_anything_is_made(
    tmp_path, capsys, experiment, settings, said
):
    assert command(experiment, tmp_path / "run", **settings) == 2
    assert said in capsys.readouterr().err and not (tmp_path / "run").exists()


@pytest.mark.slow
def test_small_reward_models_are_optimised_against(tmp_path):
    """python -m pytest -m slow tests/align/test_alignment_laws.py, two minutes."""
    settings = {
        "data.cache_dir": tmp_path / "cache",
        "model.width": 16,
        "train.steps": 100,
        "reward_overoptimization.pairs": "32,64",
        "reward_overoptimization.seeds": 2,
        "reward_overoptimization.reward_steps": 20,
        "reward_overoptimization.pool": 32,
        "reward_overoptimization.pool_prompts": 4,
        "reward_overoptimization.rounds": 5,
        "align.prompts": 8,
        "fit.resamples": 60,
    }
    for _ in range(2):
        assert command("reward_overoptimization", tmp_path / "run", **settings) == 0
        laws = json.loads((tmp_path / "run" / "laws.json").read_text())
        assert set(laws["laws"]) == {f"{m}_{n}" for m in ("best_of_n", "rl") for n in (32, 64)}
    table = scaling.Table.read(tmp_path / "run" / "points.csv")
    assert len(table) == 2 * 2 * (5 + 5)


@pytest.mark.slow
def test_what_was_learned_from_code_is_worth_prose(tmp_path):
    """python -m pytest -m slow tests/align/test_alignment_laws.py"""
    settings = {
        "data.cache_dir": tmp_path / "cache",
        "train.steps": 300,
        "finetuning_transfer.widths": "16,24",
        "finetuning_transfer.scratch_tokens": "1024,4096,16384,65536",
        "finetuning_transfer.finetune_tokens": "1024,2048",
        "finetuning_transfer.steps": 400,
        "finetuning_transfer.evaluations": 8,
        "fit.resamples": 60,
    }
    for _ in range(2):
        assert command("finetuning_transfer", tmp_path / "run", **settings) == 0
    rows = scaling.Table.read(tmp_path / "run" / "transfer.csv")
    assert np.all(rows.numbers("transferred") > 0)


def test_a_session_of_part_of_the_corpus_repeats_its_first_tokens(base, monkeypatch):
    session = finetuning_transfer.PartialSession.__new__(finetuning_transfer.PartialSession)
    session._whole = "corpus"
    session._corpus = type("Corpus", (), {"train": np.arange(10)})()
    session.read_only(4)
    assert np.asarray(session._arrays).tolist() == [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]
    assert session.fingerprint == "corpus-4"


def test_every_amount_has_its_reward_models():
    found = list(reward_overoptimization.reward_models(config_of("reward_overoptimization")))
    assert found[:3] == [(64, 0), (64, 1), (64, 2)] and len(found) == 12


def test_a_gold_reward_that_only_falls_has_its_peak_at_the_start():
    values = {"alpha": np.array([-0.5, 0.5, 0.5]), "beta": np.array([0.1, 0.1, -0.1])}
    found = overoptimization.peak(overoptimization.BEST_OF_N, values)
    np.testing.assert_allclose(found[:2], [0.0, 2.5])
    assert np.isnan(found[2])
