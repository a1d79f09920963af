"""Weights in and out: round trips, shards, and what is refused."""

import json
import shutil
import struct
import sys
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert import tensor_files
from gptjax.convert.config_json import canonical, read_attributes
from gptjax.errors import UserError

sys.path.insert(0, str(Path(__file__).parent))
import tiny


def same(one, two):
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(two), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("name", tiny.MODELS)
def test_round_trip_is_bit_exact(name, tmp_path):
    model_type, config = tiny.MODELS[name]
    params = tiny.parameters(config)
    convert.to_huggingface(config, params, tmp_path / "a", model_type=model_type)
    read, weights = convert.from_huggingface(tmp_path / "a")
    same(params, weights)
    # Fields of the function come back, resolved; a second export is the same file.
    convert.to_huggingface(read, weights, tmp_path / "b", model_type=model_type)
    for file in ("config.json", "model.safetensors"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()
    # A Mamba's config.json states no context.
    context = {"seq_len": read.seq_len} if model_type == "mamba" else {}
    assert canonical(read) == canonical(changed(config, **context))


COMPUTED = ("gpt2", "gemma2", "yarn")


@pytest.mark.parametrize(
    "name", [n if n in COMPUTED else pytest.param(n, marks=pytest.mark.slow) for n in tiny.MODELS]
)
def test_what_is_read_computes_the_same(name, tmp_path):
    model_type, config = tiny.MODELS[name]
    params = tiny.parameters(config)
    convert.to_huggingface(config, params, tmp_path, model_type=model_type)
    got = tiny.logits(*convert.from_huggingface(tmp_path), tiny.tokens())
    np.testing.assert_array_equal(got, tiny.logits(config, params, tiny.tokens()))


DEEPSEEK25 = {  # as published, without what is not the network's
    "model_type": "deepseek_v2",
    "aux_loss_alpha": 0.001,
    "ep_size": 1,
    "first_k_dense_replace": 1,
    "hidden_act": "silu",
    "hidden_size": 5120,
    "intermediate_size": 12288,
    "kv_lora_rank": 512,
    "max_position_embeddings": 163840,
    "moe_intermediate_size": 1536,
    "moe_layer_freq": 1,
    "n_group": 8,
    "n_routed_experts": 160,
    "n_shared_experts": 2,
    "norm_topk_prob": False,
    "num_attention_heads": 128,
    "num_experts_per_tok": 6,
    "num_hidden_layers": 60,
    "num_key_value_heads": 128,
    "pretraining_tp": 1,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {
        "beta_fast": 32,
        "beta_slow": 1,
        "factor": 40,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "original_max_position_embeddings": 4096,
        "type": "yarn",
    },
    "rope_theta": 10000,
    "routed_scaling_factor": 16.0,
    "scoring_func": "softmax",
    "seq_aux": True,
    "tie_word_embeddings": False,
    "topk_group": 3,
    "topk_method": "group_limited_greedy",
    "v_head_dim": 128,
    "vocab_size": 102400,
}


def test_the_published_deepseek_is_its_preset():
    _, read = read_attributes(DEEPSEEK25)
    training = {"balance_loss": 0.0, "balance_over": "batch"}
    preset = changed(models.preset("deepseek-v2.5"), preset="", **training)
    assert read == canonical(preset)
    greedy = {"topk_method": "greedy", "n_group": None, "topk_group": None}
    _, read = read_attributes({**DEEPSEEK25, **greedy})
    assert (read.experts.router_groups, read.experts.router_top_groups) == (1, 1)
    for changes, sentence in (
        ({"num_key_value_heads": 64}, "num_key_value_heads=64"),
        ({"topk_method": "noaux_tc"}, "topk_method='noaux_tc'"),
        ({"rms_norm_eps": 1e-5}, "rms_norm_eps=1e-05"),
    ):
        with pytest.raises(UserError, match=sentence):
            read_attributes({**DEEPSEEK25, **changes})


def test_shards_and_bfloat16(tmp_path):
    """Weights that are bf16 numbers come back from a bf16 folder unchanged, in many files."""
    config = tiny.LLAMA
    narrow = jax.tree.map(
        lambda leaf: leaf.astype(convert.huggingface.DTYPES["bfloat16"]).astype(np.float32),
        tiny.parameters(config),
    )
    convert.to_huggingface(
        config, narrow, tmp_path, dtype="bfloat16", max_shard_bytes=900, model_type="llama"
    )
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 3
    assert files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    index = json.loads((tmp_path / tensor_files.INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * sum(x.size for x in jax.tree.leaves(narrow))
    same(narrow, convert.from_huggingface(tmp_path)[1])


def test_published_names_without_the_prefix_and_with_buffers(tmp_path):
    """GPT-2's released file has no prefix, keeps its causal masks and, at times, the tied head."""
    config = tiny.GPT2
    params = tiny.parameters(config)
    convert.to_huggingface(config, params, tmp_path)
    found = {k: v.read() for k, v in tensor_files.open_folder(tmp_path).items()}
    renamed = {name.removeprefix("transformer."): array for name, array in found.items()}
    renamed["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    renamed["lm_head.weight"] = renamed["wte.weight"]
    tensor_files.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    same(params, convert.from_huggingface(tmp_path)[1])
    renamed["lm_head.weight"] = renamed["wte.weight"] + 1
    tensor_files.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    with pytest.raises(UserError, match="is not the embedding"):
        convert.from_huggingface(tmp_path)
    renamed["lm_head.weight"] = renamed.pop("wte.weight")  # the tied matrix under one name
    tensor_files.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    same(params, convert.from_huggingface(tmp_path)[1])
    renamed["transformer.ln_f.bias"] = renamed["ln_f.bias"] + 1
    tensor_files.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    with pytest.raises(UserError, match=r"ln_f.bias and .*ln_f.bias are both the transformer.ln_f"):
        convert.from_huggingface(tmp_path)


def test_straight_onto_devices(tmp_path):
    config, params = tiny.LLAMA, tiny.parameters(tiny.LLAMA)
    convert.to_huggingface(config, params, tmp_path)
    device = jax.devices()[0]
    place = jax.sharding.SingleDeviceSharding(device)
    _, weights = convert.from_huggingface(tmp_path, shardings=jax.tree.map(lambda _: place, params))
    assert all(leaf.devices() == {device} for leaf in jax.tree.leaves(weights))
    same(params, weights)


@pytest.fixture
def folder(tmp_path):
    convert.to_huggingface(tiny.LLAMA, tiny.parameters(tiny.LLAMA), tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "lama"}, "model_type='lama', which gptjax does not read; it reads gpt2, "),
        ({"quantization_config": {"bits": 4}}, "the weights are quantized"),
        ({"attention_bias": True}, "has no tensor model.layers.0.self_attn"),
        ({"hidden_act": "mish"}, "hidden_act='mish', which is not built"),
        ({"rope_scaling": {"rope_type": "warp"}}, "rope_type='warp'"),
        ({"rope_scaling": {"rope_type": "linear", "facto": 2}}, "without factor; add it"),
        ({"vocab_size": "13"}, "model.vocab_size='13' is a str"),
        ({"num_attention_heads": 3}, "num_heads=3"),
        ({"intermediate_size": 21}, r"shape \(16, 20\), and config.json asks for \(16, 21\)"),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "is not part of a llama"),
    ],
)
def test_what_is_not_understood_is_refused(changes, sentence, folder):
    path = folder / "config.json"
    attributes = json.loads(path.read_text())
    path.write_text(json.dumps({**attributes, **changes}))
    with pytest.raises(UserError, match=sentence):
        convert.from_huggingface(folder)


def test_a_missing_attribute_and_a_missing_file(folder):
    path = folder / "config.json"
    attributes = json.loads(path.read_text())
    del attributes["hidden_size"]
    path.write_text(json.dumps(attributes))
    with pytest.raises(UserError, match="has no hidden_size, which a llama needs"):
        convert.from_huggingface(folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match=r"neither model\.safetensors nor"):
        tensor_files.open_folder(folder)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x01",
        struct.pack("<Q", 1 << 40),
        struct.pack("<Q", 2) + b"{]",
        struct.pack("<Q", 64) + b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}'.ljust(64),
    ],
)
def test_a_damaged_file_is_refused(content, folder):
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(UserError, match="is not a safetensors file that can be read"):
        convert.from_huggingface(folder)


@pytest.mark.parametrize(
    ("changes", "model_type", "sentence"),
    [
        ({"qk_norm": "shared"}, "llama", "model.qk_norm=shared cannot be written as"),
        ({"mlp": "relu"}, "llama", "model.mlp=relu cannot be written"),
        ({"attention_sinks": True}, "", "no family of `transformers` is this model"),
        (
            {"rope_scaling": "ntk", "rope_factor": 2.0},
            "llama",
            "rope.scaling=ntk cannot be written",
        ),
        ({}, "lama", "model_type='lama' is not known"),
    ],
)
def test_what_a_family_lacks_is_refused(changes, model_type, sentence, tmp_path):
    config = changed(tiny.LLAMA, **changes)
    with pytest.raises(UserError, match=sentence):
        convert.to_huggingface(config, {}, tmp_path, model_type=model_type)


def header(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "offsets",
    [([0, 8], [4, 12]), ([0, 8], [-8, 0]), ([0, 8], [16, 24]), ([0, 8], [8, 12])],
    ids=["overlapping", "negative", "a gap", "another size"],
)
def test_a_header_that_lies_is_refused(offsets, folder):
    entries = {
        name: {"dtype": "F32", "shape": [2], "data_offsets": at}
        for name, at in zip("ab", offsets, strict=True)
    }
    (folder / "model.safetensors").write_bytes(header(**entries) + bytes(24))
    with pytest.raises(UserError, match="is not a safetensors file that can be read"):
        tensor_files.open_folder(folder)


def rewritten(folder, change):
    """Rewrite one tensor of a folder."""
    tensors = {name: each.read() for name, each in tensor_files.open_folder(folder).items()}
    name = "model.layers.0.mlp.gate_proj.weight"
    tensors[name] = change(tensors[name])
    (folder / "model.safetensors").unlink()
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda w: np.ascontiguousarray(w.T), r"shape \(16, 20\), and config.json asks for"),
        (lambda w: w.reshape(1, *w.shape), "asks for"),
        (lambda w: w.astype(np.int32), "has the type I32, and F64, F32, F16, BF16 are read"),
        (lambda w: w.astype(ml_dtypes.float8_e4m3fn), "float8 weights mean something with"),
        (lambda w: np.where(w > 0, np.nan, w), "has numbers that are not finite"),
    ],
    ids=["transposed", "an axis more", "integers", "float8", "NaN"],
)
def test_weights_that_are_none_are_refused(change, sentence, folder):
    rewritten(folder, change)
    with pytest.raises(UserError, match=sentence):
        convert.from_huggingface(folder)


def test_a_norm_of_another_shape_is_not_reshaped(folder):
    tensors = {name: each.read() for name, each in tensor_files.open_folder(folder).items()}
    tensors["model.norm.weight"] = tensors["model.norm.weight"].reshape(4, 4)
    tensor_files.write_folder(folder, tensors.items(), max_shard_bytes=1 << 30)
    with pytest.raises(UserError, match=r"shape \(4, 4\), and config.json asks for \(16,\)"):
        convert.from_huggingface(folder)


@pytest.mark.parametrize(
    "index",
    [
        {"weight_map": {"a": "../other/model.safetensors"}},
        {"weight_map": {"a": "/etc/passwd"}},
        {"weight_map": {"a": 3}},
        {"weight_map": []},
        [],
        {"weight_map": {"a": "missing.safetensors"}},
    ],
    ids=str,
)
def test_an_index_names_files_of_its_folder(index, folder):
    (folder / tensor_files.INDEX).write_text(json.dumps(index))
    with pytest.raises(UserError, match="index"):
        tensor_files.open_folder(folder)


@pytest.mark.parametrize("content", ["[]", "3", "null", '{"model_type": ["llama"]}', "{"])
def test_a_config_that_is_none_is_told(content, folder):
    (folder / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json"):
        convert.read_config(folder)


def test_a_tensor_in_two_files_is_refused(folder):
    one = folder / "model.safetensors"
    one.rename(folder / "a.safetensors")
    shutil.copyfile(folder / "a.safetensors", folder / "b.safetensors")
    names = {"x": "a.safetensors", "y": "b.safetensors"}
    (folder / tensor_files.INDEX).write_text(json.dumps({"weight_map": names}))
    with pytest.raises(UserError, match=r"is in .* and in .*; fetch the whole model again"):
        tensor_files.open_folder(folder)
