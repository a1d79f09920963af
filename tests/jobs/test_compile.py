"""job=compile: names of slices, refusals, and a small model compiled for a slice."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from gptjax import models
from gptjax.accelerators import ACCELERATORS
from gptjax.align.lora import LoraConfig
from gptjax.cost.chips import parse_target
from gptjax.errors import UserError
from gptjax.jobs import compile as job
from gptjax.main import main
from gptjax.quant.config import QuantizeConfig

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
        ("h100-4", "1x1x4", 4),
        ("a100-32", "1x4x8", 32),
    ],
)
def test_names_of_slices(name, topology, devices):
    """As Cloud TPU rents them: v4 and v5p count cores, two on a chip."""
    target = parse_target(name)
    assert (target.topology, target.devices) == (topology, devices)


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("v9-16", "compile.target='v9-16' is not known"),
        ("v5e-12", "no slice: .* try v5e-8 or v5e-16"),
        ("v5p-6", "no slice: .* try v5p-8 or v5p-16"),
        ("h100-12", "no number of GPUs in nodes of 8; try h100-8 or h100-16"),
    ],
)
def test_what_is_no_slice(name, sentence):
    with pytest.raises(UserError, match=sentence):
        parse_target(name)


def test_links_inside_a_node_and_between():
    """Of 16 GPUs in two nodes, the outer axis crosses from one to the other."""
    chip, sizes = parse_target("h100-16").chip, {"data": 2, "fsdp": 4, "tensor": 2}
    rates = [chip.rate(axes, sizes) for axes in (("tensor",), ("fsdp", "tensor"), ("data",))]
    assert rates == [450e9, 450e9, 50e9]
    assert parse_target("v5e-256").chip.rate(("data",), {"data": 256}) == 200e9


def test_a_target_is_wanted(tmp_path, capsys):
    path = REPO / "experiments" / "train_gpt2_small.py"
    flags = ["--config.job=compile", f"--workdir={tmp_path / 'run'}"]
    assert main(["gptjax", f"--config={path}", *flags]) == 2
    assert "compile.target='' names no slice" in capsys.readouterr().err


QLORA = {
    "job": "compile",
    "compile.target": "l4-1",
    "compile.base": "nf4",
    "quantize.bits": 4,
    "finetune.lora.rank": 2,
    "finetune.lora.targets": "blocks/",
    "model.depth": 2,
    "model.width": 64,
    "model.num_heads": 2,
    "model.seq_len": 32,
    "model.vocab_size": 256,
    "train.batch_size": 1,
    "train.param_dtype": "bfloat16",
}


def qlora(tmp_path, **changes):
    path = REPO / "experiments" / "train_gpt2_small.py"
    flags = [f"--config.{key}={value}" for key, value in {**QLORA, **changes}.items()]
    return main(["gptjax", f"--config={path}", f"--workdir={tmp_path / 'run'}", *flags])


def bytes_of(params):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params))


def test_shapes_of_adapters_over_a_quantized_base():
    """Half a byte a weight and a byte of scale for 64; the embedding in bfloat16."""
    config = models.ModelConfig(
        depth=1, width=64, num_heads=2, vocab_size=256, seq_len=32, positions="rotary"
    )
    quantized = QuantizeConfig(method="nf4", bits=4, embedding_bits=16)
    settings = LoraConfig(rank=2, targets=("blocks/",))
    bases = [job.adapted_shapes(config, settings, one) for one in (quantized, None)]
    inside, embedding = 12 * 64 * 64, 256 * 64
    small = models.count_params(config).total - inside - embedding  # norms and biases
    adapters = 2 * (4 * 128 + 2 * (64 + 256))
    codes = inside / 2 + inside / 64 + 6 * 4 + 4 * sum(-(-n // 256) for n in (64,) * 4 + (256,) * 2)
    assert bytes_of(bases[0]) == codes + 2 * embedding + 4 * (small + adapters)
    assert bytes_of(bases[1]) == 4 * (inside + embedding + small + adapters)


@pytest.mark.slow
def test_adapters_over_a_quantized_base(tmp_path, capsys, monkeypatch):
    """This machine in the card's place: pytest -m slow tests/jobs/test_compile.py -k adapters."""
    monkeypatch.setattr(job, "topology_devices", lambda target, spec: jax.devices()[:1])
    assert qlora(tmp_path) == 0
    found = json.loads((tmp_path / "run" / "compile.json").read_text())
    adapters = 2 * 2 * (4 * 128 + 2 * (64 + 256))
    assert found["trained_parameters"] == adapters
    assert found["opt_state"] == pytest.approx(8 * adapters, abs=16)
    assert found["needed"] >= found["params"] + found["opt_state"]
    assert f"l4-1: a base in nf4, {adapters:,} parameters" in capsys.readouterr().out


def test_codes_without_adapters_are_not_trained(tmp_path, capsys):
    assert qlora(tmp_path, **{"finetune.lora.rank": 0}) == 2
    assert "compile.base=nf4 is quantized, and codes of weights are not" in capsys.readouterr().err


@pytest.mark.parametrize("target, extra", [("v5p-512", "tpu"), ("h100-256", "cuda")])
def test_without_the_compiler_the_extra_is_named(tmp_path, capsys, target, extra):
    if ACCELERATORS[parse_target(target).chip.platform].compiles:
        pytest.skip(f"the compiler of gptjax[{extra}] is installed")
    path = REPO / "experiments" / "gpt3_175b.py"
    flags = [
        "--config.job=compile",
        f"--config.compile.target={target}",
        f"--workdir={tmp_path / 'run'}",
    ]
    assert main(["gptjax", f"--config={path}", *flags]) == 2
    assert f"pip install 'gptjax[{extra}]'" in capsys.readouterr().err


def compiled(tmp_path, **settings):
    """compile.json of a small GPT-2 with these settings, in a process of its own."""
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    fast = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1", "JAX_MEMORY_FITTING_EFFORT": "-1"}
    environment = {**os.environ, **fast, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    command = [
        sys.executable,
        "-m",
        "gptjax.main",
        "--config=experiments/train_gpt2_small.py",
        f"--workdir={tmp_path}",
        *flags,
    ]
    done = subprocess.run(command, cwd=REPO, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads((tmp_path / "compile.json").read_text())


@pytest.mark.slow
@pytest.mark.skipif(not LIBTPU, reason="libtpu is not installed; pip install 'gptjax[tpu]'")
def test_a_small_model_for_16_chips(tmp_path):
    """Bytes against the analytic count; collectives of tensor parallelism against Megatron's."""
    settings = {
        "model.depth": 6,
        "model.width": 512,
        "model.num_heads": 8,
        "model.vocab_size": 8192,
        "train.batch_size": 16,
        "mesh.data": 1,
        "mesh.fsdp": 4,
        "mesh.tensor": 4,
        "job": "compile",
        "compile.target": "v5e-16",
    }
    found = compiled(tmp_path, **settings)
    config = models.ModelConfig(depth=6, width=512, num_heads=8, vocab_size=8192, seq_len=1024)
    params = 4 * models.count_params(config).total / 16
    assert found["params"] == pytest.approx(params, rel=0.1)
    assert found["opt_state"] == pytest.approx(2 * params, rel=0.1)
    assert found["arguments"] == pytest.approx(3 * params, rel=0.1)
    whole_stream = 16 // 4 * 1024 * 512 * 4
    per_layer = [
        one
        for one in found["traffic"]
        if one["axes"] == ["tensor"] and one["size"] == whole_stream and one["times"] == 6
    ]
    assert [one["kind"] for one in per_layer] == ["all-reduce"] * 4


@pytest.mark.slow
@pytest.mark.parametrize("target", ["v4-32", "v5e-16", "v5p-32", "v6e-16", "h100-16"])
def test_every_kind_of_chip_compiles(tmp_path, target):
    """With heads of 128, so that a TPU's program has the splash kernel, cut by hand."""
    if not ACCELERATORS[parse_target(target).chip.platform].compiles:
        pytest.skip("its compiler is not installed")
    settings = {
        "model.depth": 2,
        "model.width": 256,
        "model.num_heads": 2,
        "model.seq_len": 256,
        "model.vocab_size": 512,
        "model.compute_dtype": "bfloat16",
        "train.batch_size": 16,
        "mesh.data": 2,
        "mesh.fsdp": 4,
        "mesh.tensor": 2,
        "job": "compile",
        "compile.target": target,
        "model.attention_impl": "blockwise" if target == "h100-16" else "auto",
    }
    found = compiled(tmp_path, **settings)
    assert found["devices"] == 16 and found["fits"]
    assert "all-reduce" in {one["kind"] for one in found["traffic"]}
