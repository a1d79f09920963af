"""job=evaluate through `main`: scores.json, the page, a second model, styles, and refusals."""

import json
from pathlib import Path

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import convert, data, models
from gptjax.main import main

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "evaluate.py"
CONFIG = models.ModelConfig(vocab_size=257, depth=1, width=16, num_heads=2, seq_len=64)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("evaluate")
    tokenizer = convert.own_folder.KeptTokenizer(data.DataConfig())
    for name in "ab":
        params = compiled_model.drawn(CONFIG, ord(name))
        params = jax.tree.map(lambda x: np.asarray(x, np.float32), params)
        convert.save_model(place / name, CONFIG, params, tokenizer)
    rows = [
        {"question": f"{n} + 1 =", "choices": [str(n), str(n + 1)], "answer": 1, "domain": "one"}
        for n in range(6)
    ]
    (place / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    short = [{"question": str(n), "choices": ["a", "b"], "answer": n % 2} for n in range(7)]
    short.append({"question": "9" * 40, "choices": ["a", "b"], "answer": 1})
    (place / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in short))
    texts = [
        {"text": f"{n} some words of a text {n}" + " more" * n, "domain": ["even", "odd"][n % 2]}
        for n in range(4)
    ]
    (place / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))
    return place


def command(place, workdir, **settings):
    plain = {"model": place / "a", "texts": place / "texts.jsonl", "batch_tokens": 128}
    flags = [f"--config.evaluate.{name}={value}" for name, value in (plain | settings).items()]
    flags += ["--config.report.formats=png", "--config.report.dpi=50"]
    return main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={workdir}", *flags])


def test_scores_items_and_differences_are_written(place, tmp_path, capsys):
    tasks = f"perplexity,needle,memorization,{place / 'sums.jsonl'}"
    more = {"prefix": 8, "length": 4, "repeats": 1, "lengths": "48", "depths": "0.0,1.0"}
    assert command(place, tmp_path, tasks=tasks, against=place / "b", shots="0,1", **more) == 0
    made = json.loads((tmp_path / "scores.json").read_text())
    names = [task["task"] for task in made["tasks"]]
    assert names == ["perplexity", "needle", "memorization", "sums@0", "sums@1"]
    loss, _, _, sums, _ = made["tasks"]
    assert list(loss["by"]) == ["even", "odd"] and len(loss["items"]) == 4
    assert len(sums["items"]) == 6 and sums["baselines"] == {"chance": 0.5, "majority": 1.0}
    assert sums["calibration"]["temperature"] > 0
    first = made["against"]["differences"][0]
    assert first["low"] <= first["value"] <= first["high"]
    assert command(place, tmp_path / "b", tasks="perplexity", model=place / "b") == 0
    (other,) = json.loads((tmp_path / "b" / "scores.json").read_text())["tasks"]
    bits = [one["metrics"]["bits_per_byte"]["value"] for one in (loss, other)]
    assert first["value"] == pytest.approx(bits[0] - bits[1], abs=1e-9)
    assert "<svg" in (tmp_path / "report.html").read_text()
    assert len(list((tmp_path / "figures").glob("*.png"))) == 5
    assert "acc_norm" in capsys.readouterr().out


def test_five_shots_say_which_items_had_no_room(place, tmp_path, capsys):
    assert command(place, tmp_path, tasks=place / "short.jsonl", shots="0,1,5", limit=8) == 0
    made = json.loads((tmp_path / "scores.json").read_text())["tasks"]
    assert [(task["task"], task["skipped"]) for task in made] == [
        ("short@0", 0),
        ("short@1", 0),
        ("short@5", 1),
    ]
    said = "short@5: 1 of 8 items after 5 examples are longer than the context and were left out"
    assert said in capsys.readouterr().out
    more = {"style": "letter", "shots": "0,5", "against": place / "b"}
    assert command(place, tmp_path, tasks=place / "sums.jsonl", **more) == 0
    made = json.loads((tmp_path / "scores.json").read_text())
    none = made["tasks"][1]
    assert none["skipped"] == 6 and none["metrics"]["acc"]["value"] is None
    assert made["against"]["differences"][1]["reason"] == "their contexts hold different items"


def test_texts_that_the_model_writes_are_compared_by_their_ngrams(place, tmp_path, capsys):
    more = {"ngram": 2, "written": 40, "smoothing": 0.1, "against": place / "b"}
    assert command(place, tmp_path, tasks="ngrams", **more) == 0
    made = json.loads((tmp_path / "scores.json").read_text())
    (task,) = made["tasks"]
    assert task["headline"] == "divergence" and task["metrics"]["divergence"]["value"] > 1
    assert sum(row["tokens"] - 1 for row in task["items"]) == 40
    assert "not a mean over items" in made["against"]["differences"][0]["reason"]
    assert "2-grams smoothed by 0.1" in capsys.readouterr().out


@pytest.mark.parametrize("style", ["letter", "joined", "continuation"])
def test_each_style_scores(place, tmp_path, style):
    assert command(place, tmp_path, tasks=place / "sums.jsonl", style=style) == 0
    (task,) = json.loads((tmp_path / "scores.json").read_text())["tasks"]
    assert len(task["items"]) == 6


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tasks": "perplexty"}, "did you mean perplexity"),
        ({"texts": "/there/is/none"}, "is no file"),
        ({"model": "/there/is/none"}, "is no folder"),
    ],
)
def test_wrong_settings_are_one_sentence(place, tmp_path, capsys, settings, words):
    assert command(place, tmp_path, **settings) == 2
    assert words in capsys.readouterr().err
