"""Weights in and out: round trips, shards, and what is refused."""

import json
import struct
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flat_settings import changed

from gptjax import convert, models
from gptjax.convert import safetensors
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
    got = tiny.logits(read, weights, tiny.tokens())
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
        ({"scoring_func": "sigmoid"}, "scoring_func='sigmoid'"),
        ({"norm_topk_prob": True}, "norm_topk_prob=True"),
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
    index = json.loads((tmp_path / safetensors.INDEX).read_text())
    assert index["metadata"]["total_size"] == 2 * sum(x.size for x in jax.tree.leaves(narrow))
    same(narrow, convert.from_huggingface(tmp_path)[1])


def test_published_names_without_the_prefix_and_with_buffers(tmp_path):
    """GPT-2's released file has no prefix, keeps its causal masks and, at times, the tied head."""
    config = tiny.GPT2
    params = tiny.parameters(config)
    convert.to_huggingface(config, params, tmp_path)
    found = {k: v.read() for k, v in safetensors.open_folder(tmp_path).items()}
    renamed = {name.removeprefix("transformer."): array for name, array in found.items()}
    renamed["h.0.attn.bias"] = np.ones((1, 1, 4, 4), np.float32)
    renamed["lm_head.weight"] = renamed["wte.weight"]
    safetensors.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    same(params, convert.from_huggingface(tmp_path)[1])
    renamed["lm_head.weight"] = renamed["wte.weight"] + 1
    safetensors.write_folder(tmp_path, renamed.items(), max_shard_bytes=1 << 30)
    with pytest.raises(UserError, match="is not the embedding"):
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
        ({"model_type": "lama"}, "model_type='lama', which gptjax does not read; did you mean"),
        ({"hidden_size": None, "new_trick": 3}, "new_trick=3, which is not known"),
        ({"attention_bias": True}, "attention_bias=True, and gptjax builds"),
        ({"hidden_act": "mish"}, "hidden_act='mish', which is not built"),
        ({"rope_scaling": {"rope_type": "warp"}}, "rope_type='warp'"),
        ({"rope_scaling": {"rope_type": "linear", "facto": 2}}, "did you mean factor"),
        ({"layer_types": ["chunked_attention"] * 2}, "chunked_attention"),
        ({"num_attention_heads": 3}, "num_heads=3"),
        ({"intermediate_size": 21}, r"shape \(20, 16\), and config.json asks for \(21, 16\)"),
        ({"num_hidden_layers": 3}, "has no tensor model.layers.2"),
        ({"num_hidden_layers": 1}, "is not part of a llama"),
    ],
)
def test_what_is_not_understood_is_refused(changes, sentence, folder):
    path = folder / "config.json"
    attributes = json.loads(path.read_text())
    if changes.get("hidden_size", 1) is None:
        changes = {k: v for k, v in changes.items() if v is not None}
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
        safetensors.open_folder(folder)


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
        ({"rope_scaling": "ntk", "rope_factor": 2.0}, "llama", "has no name in `transformers`"),
        ({}, "lama", "model_type='lama' is not known"),
    ],
)
def test_what_a_family_lacks_is_refused(changes, model_type, sentence, tmp_path):
    config = changed(tiny.LLAMA, **changes)
    with pytest.raises(UserError, match=sentence):
        convert.to_huggingface(config, {}, tmp_path, model_type=model_type)


def test_the_files_are_readable_by_the_safetensors_library(folder):
    library = pytest.importorskip("safetensors.numpy")
    theirs = library.load_file(folder / "model.safetensors")
    ours = safetensors.open_folder(folder)
    assert theirs.keys() == ours.keys()
    for name, array in theirs.items():
        np.testing.assert_array_equal(array, ours[name].read())
