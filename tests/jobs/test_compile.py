"""job=compile: names of slices, refusals, and a small model compiled for a slice."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax import models
from gptjax.errors import UserError
from gptjax.main import main
from gptjax.parallel import parse_target

REPO = Path(__file__).parents[2]
LIBTPU = importlib.util.find_spec("libtpu") is not None


@pytest.mark.parametrize(
    "name, topology, devices",
    [
        ("v5e-16", "v5e:4x4", 16),
        ("v5e-8", "v5e:2x4", 8),
        ("v6e-256", "v6e:16x16", 256),
        ("v5p-8", "v5p:2x2x1", 4),
        ("v5p-512", "v5p:4x8x8", 256),
        ("v4-64", "v4:2x4x4", 32),
    ],
)
def test_names_of_slices(name, topology, devices):
    """As Cloud TPU rents them: v4 and v5p count cores, two on a chip."""
    target = parse_target(name)
    assert (target.topology, target.devices) == (topology, devices)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("v9-16", "config.target='v9-16' is not known"),
        ("v5e-12", "no slice: .* try v5e-8 or v5e-16"),
        ("v5p-6", "no slice: .* try v5p-8 or v5p-16"),
    ],
)
def test_what_is_no_slice(name, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_target(name)


def test_a_target_is_wanted(tmp_path, capsys):
    path = REPO / "experiments" / "train_gpt2_small.py"
    flags = ["--config.job=compile", f"--workdir={tmp_path / 'run'}"]
    assert main(["gptjax", f"--config={path}", *flags]) == 2
    assert "config.target='' names no slice" in capsys.readouterr().err


@pytest.mark.skipif(LIBTPU, reason="libtpu is installed")
def test_without_the_compiler_the_extra_is_named(tmp_path, capsys):
    path = REPO / "experiments" / "gpt3_175b.py"
    flags = ["--config.job=compile", f"--workdir={tmp_path / 'run'}"]
    assert main(["gptjax", f"--config={path}", *flags]) == 2
    assert "pip install 'gptjax[tpu]'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed; pip install 'gptjax[tpu]'")
def test_a_small_model_for_16_chips(tmp_path):
    """Bytes against the analytic count; collectives of tensor parallelism against Megatron's."""
    settings = {
        "model.depth": 6, "model.width": 512, "model.num_heads": 8, "model.vocab_size": 8192,
        "train.batch_size": 16, "mesh.data": 1, "mesh.fsdp": 4, "mesh.tensor": 4, "job": "compile",
        "target": "v5e-16",
    }  # fmt: skip
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    fast = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1", "JAX_MEMORY_FITTING_EFFORT": "-1"}
    environment = {**os.environ, **fast, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [sys.executable, "-m", "gptjax.main", "--config=experiments/train_gpt2_small.py",
               f"--workdir={tmp_path}", *flags]  # fmt: skip
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "compile.json").read_text())
    config = models.ModelConfig(depth=6, width=512, num_heads=8, vocab_size=8192, seq_len=1024)
    params = 4 * models.count_params(config).total / 16
    assert found["params"] == pytest.approx(params, rel=0.1)
    assert found["opt_state"] == pytest.approx(2 * params, rel=0.1)
    assert found["arguments"] == pytest.approx(3 * params, rel=0.1)
    whole_stream = 16 // 4 * 1024 * 512 * 4
    per_layer = [
        one for one in found["traffic"]
        if one["axes"] == ["tensor"] and one["size"] == whole_stream and one["times"] == 6
    ]  # fmt: skip
    assert [one["kind"] for one in per_layer] == ["all-reduce"] * 4
