"""Folders of several files, of the families with experts and state spaces: bits and memory."""

import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from gptjax import convert
from gptjax.convert import tensor_files
from gptjax.errors import UserError
from gptjax.files import read_json

sys.path.insert(0, str(Path(__file__).parent))
import tiny
from test_huggingface import same

FAMILIES = ("mixtral", "deepseek2", "mamba")


def narrow(config):
    """Parameters that are bfloat16 numbers."""
    bfloat16 = convert.huggingface.DTYPES["bfloat16"]
    params = tiny.parameters(config)
    return jax.tree.map(lambda leaf: leaf.astype(bfloat16).astype(np.float32), params)


def write(name, folder):
    model_type, config = tiny.MODELS[name]
    options = {"model_type": model_type, "dtype": "bfloat16", "max_shard_bytes": 2000}
    convert.to_huggingface(config, narrow(config), folder, **options)
    return config


@pytest.mark.parametrize("name", FAMILIES)
def test_shards_and_bfloat16(name, tmp_path):
    """Every tensor is in the file that the index names; all come back unchanged."""
    config = write(name, tmp_path)
    index = read_json(tmp_path / tensor_files.INDEX)
    files = sorted(path.name for path in tmp_path.glob("*.safetensors"))
    assert len(files) > 3 and sorted(set(index["weight_map"].values())) == files
    stored = tensor_files.open_folder(tmp_path)
    assert {key: tensor.path.name for key, tensor in stored.items()} == index["weight_map"]
    assert all(tensor.dtype.name == "bfloat16" for tensor in stored.values())
    read, weights = convert.from_huggingface(tmp_path)
    assert read.depth == config.depth
    same(narrow(config), weights)


def test_experts_of_a_layer_lie_in_several_files(tmp_path):
    write("mixtral", tmp_path)
    of = read_json(tmp_path / tensor_files.INDEX)["weight_map"]
    matrices = [
        f"model.layers.0.block_sparse_moe.experts.{e}.w{n}.weight"
        for e in range(4)
        for n in (1, 2, 3)
    ]
    assert len({of[name] for name in matrices}) > 1


@pytest.mark.parametrize("name", FAMILIES)
def test_a_missing_shard_and_a_missing_tensor_are_told(name, tmp_path):
    write(name, tmp_path)
    path = tmp_path / tensor_files.INDEX
    index = read_json(path)
    lost = sorted(set(index["weight_map"].values()))[1]
    kept = {key: file for key, file in index["weight_map"].items() if file != lost}
    path.write_text(json.dumps({**index, "weight_map": kept}))
    with pytest.raises(UserError, match=r"has no tensor (model|backbone).*; fetch the whole"):
        convert.from_huggingface(tmp_path)
    path.write_text(json.dumps(index))
    (tmp_path / lost).unlink()
    with pytest.raises(UserError, match=f"{lost} is named by the index and does not exist"):
        convert.from_huggingface(tmp_path)


@pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="the peak is what Linux counts"
)
@pytest.mark.parametrize(
    "names", [["mixtral"], pytest.param([], marks=pytest.mark.slow)], ids=["mixtral", "all"]
)
def test_memory_is_the_parameters_and_a_shard(names):
    """In a process of its own: reading ≤ parameters + 1.3 shards, writing ≤ 1.3 shards beyond."""
    command = [sys.executable, Path(__file__).with_name("memory.py"), *names]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    for name, found in json.loads(run.stdout).items():
        assert found["shards"] > 2, name
        room = 1.3 * found["shard"]
        assert 0.85 * found["params"] < found["read"] < found["params"] + room, (name, found)
        assert found["written"] < room, (name, found)
