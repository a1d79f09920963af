"""The estimate of a step's memory beside what the compiler plans for it."""

import pytest
from flat_settings import changed

from gptjax.cost import memory
from gptjax.cost.memory import step_bytes
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec

MODEL = changed(
    ModelConfig(),
    depth=3,
    width=64,
    num_heads=4,
    seq_len=256,
    vocab_size=257,
    positions="rotary",
    norm="rmsnorm",
    use_bias=False,
    mlp="swiglu",
)
RUN = RunSpec(model=MODEL, optim=OptimConfig(), batch_size=4, steps=9)
KINDS = {
    "local": {"layer_pattern": ("local",), "window": 32},
    "strided": {"layer_pattern": ("strided",)},
    "fixed": {"layer_pattern": ("fixed",)},
    "linformer": {"layer_pattern": ("linformer",)},
    "longformer": {"layer_pattern": ("longformer",), "window": 32, "global_tokens": 4},
    "performer": {"layer_pattern": ("performer",)},
    "reformer": {"layer_pattern": ("reformer",)},
    "blocksparse": {"layer_pattern": ("blocksparse",), "sparse_block": 16},
    "ssm": {"layer_pattern": ("ssm",), "mlp_pattern": ("none",)},
    "experts": {"mlp_pattern": ("experts",), "num_experts": 4, "expert_width": 128},
    "latent": {"kv_rank": 32, "rope_dim": 8},
    "blockwise": {"attention_impl": "blockwise"},
}


@pytest.mark.parametrize("width", [32, 128])
def test_the_estimate_is_above_the_compilers(width):
    model = changed(MODEL, width=width, num_heads=width // 16, seq_len=64)
    _compare(model, 4.0)


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [256, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_above_the_compilers_for_every_kind_of_layer(kind, seq_len):
    _compare(changed(MODEL, seq_len=seq_len, **KINDS[kind]), 4.0)


def _compare(model, times):
    run = changed(RUN, model=model)
    compiled = step_bytes(run)[0]
    assert compiled < memory.training_bytes(run) < times * compiled
