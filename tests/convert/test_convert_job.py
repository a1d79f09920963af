"""job=convert through `main`: a trained run out, back in, and out again."""

import json
import random
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gptjax import convert
from gptjax.convert import safetensors
from gptjax.main import main

sys.path.insert(0, str(Path(__file__).parent))
import vision_tiny
from test_huggingface import same

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def command(experiment, workdir, **settings):
    flags = [f"--config.{name.replace('__', '.')}={value}" for name, value in settings.items()]
    path = EXPERIMENTS / f"{experiment}.py"
    return main(["gptjax", f"--config={path}", f"--workdir={workdir}", *flags])


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    place = tmp_path_factory.mktemp("trained")
    rng = random.Random(0)
    words = [" ".join(rng.choices("abcdef", k=30)) for _ in range(200)]
    (place / "text").mkdir()
    (place / "text" / "a.txt").write_text("\n\n".join(words))
    settings = {
        "data__source": "text",
        "data__path": place / "text",
        "data__cache_dir": place / "cache",
        "data__heldout_fraction": 0.1,
        "model__depth": 2,
        "model__width": 16,
        "model__num_heads": 2,
        "model__seq_len": 32,
        "model__vocab_size": 0,
        "train__steps": 3,
        "train__tokens": 0,
        "train__batch_size": 4,
        "train__evaluations": 1,
        "train__keep_best": True,
        "train__tensorboard": False,
    }
    assert command("train_gpt2_small", place / "run", **settings) == 0
    return place


def test_a_run_goes_out_in_and_out(trained, tmp_path):
    run, out, workdir, again = trained / "run", tmp_path / "a", tmp_path / "b", tmp_path / "c"
    assert command("convert_weights", run, convert__folder=out) == 0
    config, params = convert.from_huggingface(out)
    assert json.loads((out / "config.json").read_text())["model_type"] == "gpt2"
    assert config.depth == 2 and config.vocab_size == 257
    assert np.abs(params["blocks"]["mlp"]["up_bias"]).max() > 0  # trained, not initial
    direction = {"convert__direction": "from_huggingface"}
    assert command("convert_weights", workdir, convert__folder=out, **direction) == 0
    settings = {"convert__dtype": "bfloat16", "convert__shard_gb": 1e-5}
    assert command("convert_weights", workdir, convert__folder=again, **settings) == 0
    assert len(list(again.glob("*.safetensors"))) > 2
    wide, narrow = safetensors.open_folder(out), safetensors.open_folder(again)
    for name, tensor in wide.items():
        rounded = tensor.read().astype(narrow[name].dtype)
        np.testing.assert_array_equal(rounded, narrow[name].read())


@pytest.mark.parametrize("name", ["vit-classes", "vit", "clip", "llava", "llava-vit-qwen2"])
def test_vision_goes_in_and_out(name, tmp_path, capsys):
    folder, workdir, out = (tmp_path / each for each in ("folder", "workdir", "out"))
    config, params = vision_tiny.MODELS[name], vision_tiny.parameters(vision_tiny.MODELS[name])
    convert.to_huggingface(config, params, folder)
    direction = {"convert__direction": "from_huggingface"}
    assert command("convert_weights", workdir, convert__folder=folder, **direction) == 0
    settings = {"convert__dtype": "float32", "convert__shard_gb": 1e-5}
    assert command("convert_weights", workdir, convert__folder=out, **settings) == 0
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert capsys.readouterr().out.count(f"{count:,} parameters; ") == 2
    same(params, convert.from_huggingface(out)[1])
    settings["convert__model_type"] = "gpt2"
    assert command("convert_weights", workdir, convert__folder=out, **settings) == 2
    assert "model_type='gpt2' is no" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("workdir", "settings", "sentence"),
    [
        ("run", {}, "convert.folder='' names no folder"),
        ("none", {"convert__folder": "x"}, "holds no sweep"),
        (
            "run",
            {"convert__folder": "x", "convert__dtype": "float16", "convert__model_type": "lama"},
            "did you mean llama",
        ),
    ],
)
def test_mistakes_are_told(workdir, settings, sentence, trained, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert command("convert_weights", trained / workdir, **settings) == 2
    assert sentence in capsys.readouterr().err
