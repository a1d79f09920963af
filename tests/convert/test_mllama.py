"""Llama 3.2 Vision in and out: round trips, released names and attributes, what is refused."""

import functools
import json
import math
import shutil
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert import tensor_files
from gptjax.convert.vision import mllama
from gptjax.errors import UserError
from gptjax.main import main

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
import tiled_reference as reference

TILED = reference.TILED
parameters = functools.cache(reference.parameters)
EXPERIMENT = Path(__file__).parents[2] / "experiments" / "convert_weights.py"


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("written")
    convert.to_huggingface(TILED, parameters(), folder)
    return folder


@pytest.fixture
def folder(written, tmp_path):
    return Path(shutil.copytree(written, tmp_path / "out"))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_round_trip_is_bit_exact(folder, tmp_path):
    config, params = convert.from_huggingface(folder)
    assert config == mllama.resolved(TILED) == convert.read_config(folder)
    same(params, parameters())
    convert.to_huggingface(config, params, tmp_path / "again", model_type="mllama")
    assert files(folder) == files(tmp_path / "again")


def test_through_the_job_and_back(folder, tmp_path):
    def job(*flags):
        flags = [f"--config.convert.{flag}" for flag in flags]
        return main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={tmp_path / 'work'}", *flags])

    assert job(f"folder={folder}", "direction=from_huggingface") == 0
    assert job(f"folder={tmp_path / 'again'}") == 0
    assert files(folder) == files(tmp_path / "again")


def test_shards_and_bfloat16(tmp_path):
    """Weights that are bf16 numbers come back from a bf16 folder unchanged, in many files."""
    dtype = convert.huggingface.DTYPES["bfloat16"]
    narrow = jax.tree.map(lambda x: x.astype(dtype).astype(np.float32), parameters())
    convert.to_huggingface(TILED, narrow, tmp_path, dtype="bfloat16", max_shard_bytes=5000)
    assert len(list(tmp_path.glob("*.safetensors"))) > 3
    same(narrow, convert.from_huggingface(tmp_path)[1])


def test_names_of_the_released_files(folder):
    """Those of 2024, with a buffer that is no weight."""
    found = {}
    for name, tensor in tensor_files.open_folder(folder).items():
        name = name.replace("model.language_model", "language_model.model", 1)
        name = name.replace("lm_head", "language_model.lm_head", 1)
        found[name.removeprefix("model.")] = tensor.read()
    assert not any(name.startswith("model.") for name in found)
    found["language_model.model.rotary_emb.inv_freq"] = np.ones(2, np.float32)
    tensor_files.write_folder(folder, found.items(), max_shard_bytes=1 << 30)
    same(convert.from_huggingface(folder)[1], parameters())


def test_what_transformers_saves_is_read(folder, tmp_path):
    pytest.importorskip("transformers")
    pytest.importorskip("torch")
    reference.their_model(folder).save_pretrained(tmp_path / "theirs")
    config, params = convert.from_huggingface(tmp_path / "theirs")
    assert config == mllama.resolved(TILED)
    same(params, parameters())


# The attributes of 11B as its file has them, without most of how texts are generated.
RELEASED = {
    "architectures": ["MllamaForConditionalGeneration"],
    "image_token_index": 128256,
    "model_type": "mllama",
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "text_config": {
        "add_cross_attention": False,
        "architectures": None,
        "bos_token_id": 128000,
        "cross_attention_hidden_size": None,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "do_sample": False,
        "dropout": 0,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "model_type": "mllama_text_model",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "pad_token_id": 128004,
        "pruned_heads": {},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": 128256,
    },
    "vision_config": {
        "add_cross_attention": False,
        "attention_heads": 16,
        "hidden_act": "gelu",
        "hidden_size": 1280,
        "image_size": 448,
        "intermediate_layers_indices": [3, 7, 15, 23, 30],
        "intermediate_size": 5120,
        "max_num_tiles": 4,
        "model_type": "mllama_vision_model",
        "norm_eps": 1e-05,
        "num_channels": 3,
        "num_global_layers": 8,
        "num_hidden_layers": 32,
        "patch_size": 14,
        "pruned_heads": {},
        "supported_aspect_ratios": [
            [1, 1],
            [1, 2],
            [1, 3],
            [1, 4],
            [2, 1],
            [2, 2],
            [3, 1],
            [4, 1],
        ],
        "temperature": 1.0,
        "tie_word_embeddings": True,
        "vision_output_dim": 7680,
    },
}


def read(attributes):
    return mllama.read_mllama(attributes, dict).config


def test_the_released_attributes_are_the_preset():
    wanted = mllama.resolved(models.vision_preset("llama3.2-11b-vision"))
    assert read(RELEASED) == wanted
    # What is not said is as in the configuration's class, which has 11B's values but for positions.
    plain = read({"model_type": "mllama"})
    assert plain.vision == wanted.vision and plain.image_token == wanted.image_token
    assert plain.language.text.rope.scaling == "none"
    assert plain.language.text.rope.base == wanted.language.text.rope.base


LLAMAS = [name for name in models.VISION_PRESETS if name.startswith("llama")]


@pytest.mark.parametrize("name", LLAMAS)
def test_presets_read_back_and_are_counted_from_settings(name):
    config = models.vision_preset(name)
    attributes, layout = mllama.write_mllama(config, "")
    assert read(attributes) == mllama.resolved(config)
    total = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(layout.shapes))
    assert models.count_tiled(config).total == total


@pytest.mark.parametrize(
    ("part", "changes", "sentence"),
    [
        ("text_config", {"hidden_act": "mish"}, "hidden_act='mish', which is not built"),
        ("text_config", {"tie_word_embeddings": True}, "tie_word_embeddings=True, and gptjax"),
        ("vision_config", {"hidden_act": "quick_gelu"}, "hidden_act='quick_gelu', and gptjax"),
        ("vision_config", {"vision_output_dim": 24}, "vision_output_dim=24, and gptjax builds"),
        ("vision_config", {"attention_heads": 5}, "width=12 is not a multiple of num_heads=5"),
        ("vision_config", {"image_size": [6, 8]}, "and only squares are built"),
        ("text_config", {"cross_attention_layers": [1, 5]}, "are not ascending numbers of the 5"),
        ("text_config", {"intermediate_size": 21}, r"shape \(16, 20\), and config.json asks for"),
        ("text_config", {"vocab_size": 12}, r"shape \(21, 16\), and config.json asks"),
        ("text_config", {"num_hidden_layers": 6}, "no tensor model.language_model.layers.5"),
        ("text_config", {"cross_attention_layers": [1]}, "layers.4.cross_attn"),
        ("vision_config", {"num_global_layers": 1}, "is not part of a mllama"),
        ("vision_config", {"image_size": 8}, "and config.json asks for"),
    ],
)
def test_what_is_not_understood_is_refused(part, changes, sentence, folder):
    path = folder / "config.json"
    attributes = json.loads(path.read_text())
    (attributes[part] if part else attributes).update(changes)
    path.write_text(json.dumps(attributes))
    with pytest.raises(UserError, match=sentence):
        convert.from_huggingface(folder)


@pytest.mark.parametrize(
    ("changes", "model_type", "sentence"),
    [
        ({"unshown": "none"}, "", "unshown='none' cannot be written as model_type=mllama"),
        ({"extra_tokens": 4}, "", "extra_tokens=4 cannot be written"),
        ({}, "llava", "model_type='llava' is no decoder that sees tiles"),
    ],
)
def test_what_transformers_lacks_is_refused(changes, model_type, sentence, tmp_path):
    language = changed(TILED.language, **changes)
    config = changed(TILED, language=language, image_token=13)
    with pytest.raises(UserError, match=sentence):
        convert.to_huggingface(config, {}, tmp_path, model_type=model_type)


def test_a_text_model_that_is_no_llama_is_refused(tmp_path):
    text = changed(TILED.language.text, mlp="relu")
    config = changed(TILED, language=changed(TILED.language, text=text))
    with pytest.raises(UserError, match="mlp=relu cannot be written as model_type=mllama_text"):
        convert.to_huggingface(config, {}, tmp_path)
