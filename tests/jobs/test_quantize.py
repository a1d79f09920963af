"""job=quantize through `main`: a folder in, a smaller one out, and what is refused."""

import json
import shutil
from pathlib import Path

import compiled_model
import jax
import pytest

from gptjax import convert, data, models
from gptjax.main import main
from gptjax.models.quantized import is_quantized

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "quantize.py"
CONFIG = models.ModelConfig(vocab_size=257, depth=1, width=16, num_heads=2, seq_len=16)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("quantize")
    (place / "text").mkdir()
    for i in range(8):
        (place / "text" / f"{i}.txt").write_text(f"text number {i} " * 40)
    params = compiled_model.drawn(CONFIG)
    tokenizer = convert.own_folder.KeptTokenizer(data.DataConfig())
    convert.save_model(place / "model", CONFIG, params, tokenizer)
    return place


def command(place, workdir, **settings):
    plain = {
        "quantize__model": place / "model",
        "data__source": "text",
        "data__path": place / "text",
        "data__cache_dir": place / "cache",
        "data__heldout_fraction": 0.3,
        "quantize__calibration_tokens": 64,
    }
    flags = [
        f"--config.{name.replace('__', '.')}={value}" for name, value in (plain | settings).items()
    ]
    return main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={workdir}", *flags])


def slow(*cases):
    return [pytest.param(case, marks=pytest.mark.slow) for case in cases]


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "gptq", "bits": 4, "group": 8, "activation_order": False},
        {"method": "nf4", "bits": 4, "heldout_tokens": 64, "embedding_bits": 4},
        *slow(
            {"method": "affine", "bits": 8, "scales": "channel", "activations": 8}
            | {"embedding_bits": 16},
            {"method": "affine", "budget_mb": 0.008, "budget_bits": "(4,8)", "scales": "tensor"},
        ),
    ],
    ids=lambda settings: "-".join(map(str, settings.values())),
)
def test_a_smaller_folder(place, tmp_path, capsys, settings):
    named = {f"quantize__{name}": value for name, value in settings.items()}
    assert command(place, tmp_path / "small", **named) == 0
    loaded = convert.load(tmp_path / "small")
    assert any(map(is_quantized, jax.tree.leaves(loaded.params, is_leaf=is_quantized)))
    found = json.loads((tmp_path / "small" / "quantization.json").read_text())
    assert found["bytes_after"] < found["bytes_before"] / 2
    assert abs(found["loss_after"] - found["loss_before"]) < 0.1
    assert loaded.recipe == found["recipe"] and loaded.recipe["method"] == settings["method"]
    assert loaded.kept is not None and "held-out" in capsys.readouterr().out
    calibrated = settings["method"] == "gptq" or "budget_mb" in settings
    assert ("calibration" in loaded.recipe) == calibrated
    if settings["method"] == "gptq":
        assert loaded.recipe["calibration"]["tokens"] == 64
        errors = [row for row in found["matrices"] if row["output_error"] is not None]
        assert len(errors) == 6


def test_a_quantized_model_is_no_model_to_quantize(place, tmp_path, capsys):
    quick = {"quantize__method": "nf4", "quantize__bits": 4, "quantize__embedding_bits": 4}
    assert command(place, tmp_path / "small", **quick, quantize__heldout_tokens=64) == 0
    assert command(place, tmp_path / "again", quantize__model=tmp_path / "small") == 2
    assert "is quantized already" in capsys.readouterr().err
    assert not (tmp_path / "again" / "model.json").exists()
    assert command(place, tmp_path / "small") == 2
    assert "holds a model already" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "small")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model": ""}, "names no folder"),
        ({"model": "nowhere"}, "is no folder"),
        ({"method": "nf4", "bits": 3}, "has no quantize.bits=3; give 4"),
        ({"bits": 9}, "quantize.bits=9"),
        ({"method": "gptq", "bits": 4, "calibration_tokens": 0}, "needs calibration text"),
        ({"budget_mb": 1, "calibration_tokens": 0}, "needs calibration text"),
        ({"method": "nf4", "bits": 4, "activations": 8}, "multiplies integers"),
        pytest.param({"budget_mb": 1e-3}, "too small for the fewest", marks=pytest.mark.slow),
        ({"rules": "mlp"}, "is not EXPRESSION=BITS"),
    ],
    ids=lambda value: "" if isinstance(value, str) else "-".join(value),
)
def test_refused_in_a_sentence(place, tmp_path, capsys, settings, sentence):
    named = {f"quantize__{name}": value for name, value in settings.items()}
    assert command(place, tmp_path / "small", **named) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "small" / "model.json").exists()


def test_a_model_of_another_vocabulary(place, tmp_path, capsys):
    settings = {"data__tokenizer": "bpe", "data__vocab_size": 300}
    model = convert.load(place / "model")
    convert.save_model(tmp_path / "bare", model.config, model.params)
    assert command(place, tmp_path / "small", quantize__model=tmp_path / "bare", **settings) == 2
    assert "give the tokenizer that it was trained with" in capsys.readouterr().err
