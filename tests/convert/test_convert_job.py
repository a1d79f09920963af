"""job=convert through `main`: a trained run out, back in, and out again."""

import json
import random
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gptjax import convert, models
from gptjax.convert import tensor_files
from gptjax.convert.chat_template import format_of
from gptjax.errors import UserError
from gptjax.files import write_json
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
    assert train(place, place / "run") == 0
    return place


def train(place, run, **changes):
    settings = {
        "data__source": "text",
        "data__path": place / "text",
        "data__cache_dir": place / "cache",
        "data__heldout_fraction": 0.1,
        "model__depth": 2,
        "model__width": 16,
        "model__num_heads": 2,
        "model__seq_len": 32,
        "model__layers": "scan",
        "model__vocab_size": 0,
        "train__steps": 3,
        "train__tokens": 0,
        "train__batch_size": 4,
        "train__evaluations": 1,
        "train__keep_best": True,
        "train__tensorboard": False,
    }
    return command("train_gpt2_small", run, **settings | changes)


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
    wide, narrow = tensor_files.open_folder(out), tensor_files.open_folder(again)
    for name, tensor in wide.items():
        rounded = tensor.read().astype(narrow[name].dtype)
        np.testing.assert_array_equal(rounded, narrow[name].read())


def test_every_kind_of_folder_gives_the_same_model(trained, tmp_path):
    """A run that ended, one that has not, checkpoints, an exported and a converted folder."""
    run, out, workdir = trained / "run", tmp_path / "a", tmp_path / "b"
    unfinished = tmp_path / "c"
    shutil.copytree(run, unfinished)
    (unfinished / "model" / "model.safetensors").unlink()
    assert command("convert_weights", run, convert__folder=out) == 0
    direction = {"convert__direction": "from_huggingface"}
    assert command("convert_weights", workdir, convert__folder=out, **direction) == 0
    wanted = convert.load(run)
    tokens = np.frombuffer(b"abc def ab", np.uint8).astype(np.int32)[None]
    apply = jax.jit(models.apply, static_argnums=0)
    logits = np.asarray(apply(wanted.config, wanted.params, tokens))
    (ids,) = wanted.tokenizer.encode([b"abc"])
    np.testing.assert_array_equal(ids, [97, 98, 99])
    ours = (unfinished, run / "checkpoints", run / "checkpoints" / "best" / "3", workdir)
    for folder in (*ours, out):
        found = convert.load(folder)
        np.testing.assert_array_equal(apply(found.config, found.params, tokens), logits)
    for folder in ours[:-1]:  # bytes are no file, which a folder of Hugging Face's would need
        assert convert.load(folder).tokenizer.vocab_size == 257


def test_a_run_keeps_the_tokenizer_that_it_trained(trained, tmp_path):
    settings = {"data__tokenizer": "bpe", "data__vocab_size": 264, "train__keep_best": False}
    settings["model__depth"] = 1
    run, out, workdir = tmp_path / "run", tmp_path / "out", tmp_path / "in"
    assert train(trained, run, **settings) == 0
    model = convert.load(run)
    assert model.config.vocab_size == model.tokenizer.vocab_size == 264
    (ids,) = model.tokenizer.encode([b"a b c d"])
    assert model.tokenizer.decode(ids) == b"a b c d"
    assert command("convert_weights", run, convert__folder=out) == 0
    direction = {"convert__direction": "from_huggingface"}
    assert command("convert_weights", workdir, convert__folder=out, **direction) == 0
    for folder in (out, workdir):
        (again,) = convert.load(folder).tokenizer.encode([b"a b c d"])
        np.testing.assert_array_equal(ids, again)
    shutil.rmtree(trained / "cache")  # the run's folder is enough
    assert convert.load(run).tokenizer.vocab_size == 264


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{"optim__ema_decay": 0.5}, {"optim__name": "schedule_free"}], ids=str
)
def test_what_is_kept_is_what_is_evaluated(settings, trained, tmp_path):
    """A weight average, and the x iterate of schedule-free: not what gradients are taken of."""
    run = tmp_path / "run"
    assert train(trained, run, **settings) == 0
    kept = convert.load(run).params
    again = convert.load(run / "checkpoints").params  # by NumPy, which rounds by itself
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), kept, again)
    state = ocp.PyTreeCheckpointer().restore(run / "checkpoints" / "best" / "3" / "default")
    assert np.abs(kept["embed"]["tokens"] - state["params"]["embed"]["tokens"]).max() > 0


def test_a_chat_template_names_its_format(tmp_path):
    template = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
    write_json(tmp_path / "tokenizer_config.json", {"chat_template": template})
    assert format_of(tmp_path) == "chatml"
    llama = {"chat_template": "{{ bos_token }}[INST] <<SYS>> <</SYS>> [/INST]", "bos_token": "<s>"}
    llama["eos_token"] = {"content": "</s>"}
    write_json(tmp_path / "tokenizer_config.json", llama)
    assert format_of(tmp_path) == "llama2"
    (tmp_path / "chat_template.jinja").write_text("{{ messages }}")
    assert format_of(tmp_path) == ""


@pytest.mark.parametrize(
    ("name", "sentence"),
    [("text", "holds no model"), ("missing", "is no folder"), ("sweep", "keep no parameters")],
)
def test_a_folder_without_a_model_is_told(name, sentence, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "sweep" / "records").mkdir(parents=True)
    with pytest.raises(UserError, match=sentence):
        convert.load(tmp_path / name)


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
        ("none", {"convert__folder": "x"}, "is no folder; give a folder that holds a model"),
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
