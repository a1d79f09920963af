"""job=ensemble through `main`: combinations, soups, and what is refused."""

import json
from pathlib import Path

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import convert, data, models
from gptjax.main import main

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "ensemble.py"
CONFIG = models.ModelConfig(vocab_size=257, depth=1, width=16, num_heads=2, seq_len=16)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("ensemble")
    (place / "text").mkdir()
    for i in range(8):
        (place / "text" / f"{i}.txt").write_text(f"text number {i} " * 40)
    tokenizer = convert.own_folder.KeptTokenizer(data.DataConfig())
    first = compiled_model.drawn(CONFIG)
    near = jax.tree.map(lambda x: x + 0.02 * np.random.default_rng(1).normal(size=x.shape), first)
    wider = models.ModelConfig(vocab_size=257, depth=1, width=24, num_heads=2, seq_len=16)
    all_of = {"a": (CONFIG, first), "b": (CONFIG, near)}
    all_of["c"] = (wider, compiled_model.drawn(wider, 2))
    for name, (config, params) in all_of.items():
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
        convert.save_model(place / name, config, params, tokenizer)
    return place


def command(place, workdir, members="ab", **settings):
    plain = {
        "ensemble__models": ",".join(str(place / name) for name in members),
        "ensemble__fit_tokens": 128,
        "ensemble__score_tokens": 128,
        "data__source": "text",
        "data__path": place / "text",
        "data__cache_dir": place / "cache",
        "data__heldout_fraction": 0.3,
    }
    flags = [
        f"--config.{name.replace('__', '.')}={value}" for name, value in (plain | settings).items()
    ]
    return main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={workdir}", *flags])


@pytest.mark.parametrize("name", ["uniform", "em", "by_token", "log_linear"])
def test_predictions_are_combined(place, tmp_path, capsys, name):
    assert command(place, tmp_path / "out", "abc", ensemble__combination=name) == 0
    found = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert found["loss"] < max(found["members"].values()) + 1e-4 and len(found["members"]) == 3
    assert "held-out tokens" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("name", "more"),
    [("soup", {}), ("weighted_soup", {"weights": "(1,3)"}), ("ema_soup", {}), ("greedy_soup", {})],
)
def test_soups_are_models(place, tmp_path, name, more):
    named = {f"ensemble__{key}": value for key, value in more.items()}
    assert command(place, tmp_path / "out", ensemble__combination=name, **named) == 0
    soup = convert.load(tmp_path / "out")
    assert soup.config == CONFIG and soup.kept is not None
    found = json.loads((tmp_path / "out" / "ensemble.json").read_text())
    assert found["loss"] <= max(found["members"].values())


@pytest.mark.parametrize(
    ("members", "settings", "sentence"),
    [
        ("a", {}, "names 1 folder"),
        ("ac", {"combination": "soup"}, "a soup wants members of one shape"),
        ("ab", {"weights": "(1,2)"}, "is for ensemble.combination=weighted_soup"),
        ("ab", {"combination": "weighted_soup", "weights": "(1,2,3)"}, "one number for each of 2"),
    ],
)
def test_refused_in_a_sentence(place, tmp_path, capsys, members, settings, sentence):
    named = {f"ensemble__{name}": value for name, value in settings.items()}
    assert command(place, tmp_path / "out", members, **named) == 2
    assert sentence in capsys.readouterr().err
