"""Sizes of a mesh, what is refused, and the tests on eight simulated devices."""

import subprocess
import sys
from pathlib import Path

import pytest
from flat_settings import changed

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.parallel import MeshConfig, check_cuts, resolve
from gptjax.train import RunSpec, layout_over, make_layout
from gptjax.train.layout import cuts

FOLDER = Path(__file__).parent

SPEC = RunSpec(
    model=changed(
        ModelConfig(), depth=2, width=48, num_heads=6, num_kv_heads=2, seq_len=16, vocab_size=257
    ),
    optim=OptimConfig(),
    batch_size=12,
    steps=1,
    micro_batches=2,
)


def test_sizes():
    assert set(resolve(MeshConfig(), 1).values()) == {1}
    assert resolve(MeshConfig(fsdp=2, tensor=2), 8) == {
        "data": 2,
        "pipe": 1,
        "fsdp": 2,
        "expert": 1,
        "seq": 1,
        "tensor": 2,
    }
    assert resolve(MeshConfig(data=2), 8)["data"] == 2


def test_one_device_has_no_mesh():
    assert make_layout(MeshConfig(), SPEC, devices=["the only one"]) is None


@pytest.mark.parametrize(
    "sizes, devices, sentence",
    [
        ({"tensor": 3}, 8, "mesh.tensor=3 do not fit 8 devices; try mesh.tensor=2"),
        (
            {"data": 4, "fsdp": 4},
            8,
            "mesh.data=4 × mesh.fsdp=4 do not fit 8 devices; try mesh.data=2",
        ),
        ({"data": 2}, 1, "mesh.data=2 does not fit 1 device; try mesh.data=1"),
        ({"fsdp": -1}, 8, "cannot both be the rest; set mesh.fsdp=1"),
        ({"tensor": 0}, 8, "mesh.tensor=0 is no size; give 1 or more, or -1"),
    ],
)
def test_what_does_not_fit_the_devices(sizes, devices, sentence):
    with pytest.raises(UserError, match=sentence):
        resolve(MeshConfig(**sizes), devices)


@pytest.mark.parametrize(
    "mesh, sentence",
    [
        (
            MeshConfig(data=4),
            r"train.batch_size=12 \(in micro-batches of 6\) is not a multiple of mesh.data=4; "
            "set train.batch_size=16, or mesh.data=3",
        ),
        (MeshConfig(pipe=4), "model.depth=2 is not .* mesh.pipe=4; .*depth=4, or mesh.pipe=2"),
        (
            MeshConfig(pipe=2, schedule="interleaved"),
            r"model.depth=2 \(in chunks of 1\) .* mesh.pipe=2; set model.depth=4, or mesh.pipe=1",
        ),
        (MeshConfig(tensor=4), "model.num_heads=6 is not .* mesh.tensor=4; .*=8, or mesh.tensor=3"),
        (MeshConfig(tensor=6), "model.num_kv_heads=2 .* mesh.tensor=6; .*=6, or mesh.tensor=2"),
        (MeshConfig(tensor=2), "model.vocab_size=257 .* mesh.tensor=2; .*=258, or mesh.tensor=1"),
        (
            MeshConfig(seq=3),
            r"model.seq_len=16 \(in halves of 8\) .* mesh.seq=3; .*_len=18, or mesh.seq=2",
        ),
        (
            MeshConfig(seq=4, context="all_to_all"),
            "model.num_heads=6 is not .* mesh.seq=4; set model.num_heads=8, or mesh.seq=3",
        ),
    ],
)
def test_what_does_not_divide_the_model(mesh, sentence):
    sizes = resolve(mesh, mesh.pipe * mesh.tensor * mesh.seq * max(1, mesh.data))
    with pytest.raises(UserError, match=sentence):
        check_cuts(sizes, cuts(SPEC, mesh))


@pytest.mark.parametrize(
    "change, mesh, sentence",
    [
        ({"layer_pattern": ("ssm",)}, {}, "mesh.seq=2 .* ssm .* whole; set mesh.seq=1"),
        ({"layer_pattern": ("global", "strided")}, {}, "mesh.seq=2 .* strided in .*"),
        ({"positions": "alibi"}, {}, "ring has no model.positions=alibi; set .*=all_to_all"),
        ({"attention_sinks": True}, {}, "ring has no model.attention_sinks=True"),
        ({"router_noise": True}, {}, "ring changes the order .*; set mesh.context=all_to_all"),
        ({"dropout.residual": 0.1}, {}, "mesh.seq=2 .*model.dropout draws masks of whole"),
        ({}, {"pipe": 2}, "ring does not go with mesh.pipe=2; set mesh.context=all_to_all"),
    ],
)
def test_what_cannot_be_cut_along_the_sequence(change, mesh, sentence):
    model = changed(SPEC.model, vocab_size=258, **change)
    mesh = MeshConfig(data=1, seq=2, **mesh)
    with pytest.raises(UserError, match=sentence):
        layout_over(mesh, changed(SPEC, model=model), list("abcd"))


@pytest.mark.parametrize(
    "changes, parts, sentence",
    [
        ({"mlp_pattern": ("dense",), "num_experts": 0}, 2, "has none; set mesh.expert=1"),
        (
            {},
            2,
            r"model.experts.capacity_factor=0 .* set model.experts.capacity_factor=1.25, or 2 to "
            r"drop no",
        ),
        ({}, 3, "model.experts.count=4 is not .* mesh.expert=3; .*=6, or mesh.expert=2"),
    ],
)
def test_what_experts_cannot_be_cut_into(changes, parts, sentence):
    experts = {"mlp_pattern": ("experts",), "num_experts": 4, "use_bias": False, **changes}
    spec = changed(SPEC, model=changed(SPEC.model, **experts))
    with pytest.raises(UserError, match=sentence):
        layout_over(MeshConfig(data=1, expert=parts), spec, ["a", "b", "c"])


def test_slots_are_counted_in_whole_sequences():
    experts = {"mlp_pattern": ("experts",), "num_experts": 4, "use_bias": False}
    model = changed(SPEC.model, **experts, capacity_factor=2.0)
    with pytest.raises(UserError, match=r"mesh.expert=2 counts slots.* set mesh.seq=1"):
        layout_over(
            MeshConfig(data=1, expert=2, seq=2, context="all_to_all"),
            changed(SPEC, model=model, batch_size=16),
            list("abcd"),
        )


def on_eight_devices(*arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "on_eight_devices.py", *arguments]
    done = subprocess.run(command, cwd=FOLDER, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    return done.stdout


def test_on_eight_devices():
    assert "passed" in on_eight_devices()


@pytest.mark.slow
def test_every_mesh_on_eight_devices():
    assert "passed" in on_eight_devices("-m", "slow")


def test_interleaving_wants_whole_rounds():
    spec = changed(SPEC, batch_size=9, micro_batches=3)
    spec = changed(spec, model=changed(spec.model, depth=4))
    with pytest.raises(UserError, match=r"micro_batches=3 is not a .*mesh.pipe=2.*micro_batches=4"):
        layout_over(MeshConfig(data=1, pipe=2, schedule="interleaved"), spec, ["a", "b"])


def test_a_pipeline_has_no_routers():
    experts = {"mlp_pattern": ("experts",), "num_experts": 4, "use_bias": False}
    spec = changed(SPEC, model=changed(SPEC.model, **experts))
    with pytest.raises(UserError, match=r"experts.count=4 has routers.* set mesh.pipe=1"):
        layout_over(MeshConfig(data=1, pipe=2), spec, ["a", "b"])
