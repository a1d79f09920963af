"""The estimate of a step's memory beside what the compiler plans for it."""

import pytest
from flat_settings import changed

from gptjax.cost.memory import compiled_bytes, estimate_bytes
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


SETTINGS = {
    "dots": {"model": {"remat": "dots", "depth": 8}},
    "block": {"model": {"remat": "block", "depth": 8}},
    "sqrt": {"model": {"remat": "sqrt", "depth": 8}},
    "micro-batches": {"batch_size": 16, "micro_batches": 4},
    "bfloat16": {"model": {"compute_dtype": "bfloat16"}},
    "scores in bfloat16": {"model": {"compute_dtype": "bfloat16", "seq_len": 1024}},
    "states in bfloat16": {
        "model": {
            "compute_dtype": "bfloat16",
            "layer_pattern": ("ssm",),
            "mlp_pattern": ("none",),
        }
    },
    "a large vocabulary": {"model": {"vocab_size": 4096}},
    "its loss in chunks": {"model": {"vocab_size": 4096}, "loss_chunk": 64},
    "8-bit moments": {"model": {"width": 256, "seq_len": 64}, "optim": {"name": "adam8bit"}},
    "one moment": {"model": {"width": 256, "seq_len": 64}, "optim": {"name": "lion"}},
}


@pytest.mark.parametrize("width", [32, 128])
def test_the_estimate_is_above_the_compilers(width):
    _compare(changed(RUN, model=changed(MODEL, width=width, num_heads=width // 16, seq_len=64)))


@pytest.mark.slow
@pytest.mark.parametrize("seq_len", [256, 1024])
@pytest.mark.parametrize("kind", KINDS)
def test_the_estimate_is_above_the_compilers_for_every_kind_of_layer(kind, seq_len):
    _compare(changed(RUN, model=changed(MODEL, seq_len=seq_len, **KINDS[kind])))


@pytest.mark.slow
@pytest.mark.parametrize("name", SETTINGS)
def test_the_estimate_is_above_the_compilers_for_settings_that_save_memory(name):
    values = dict(SETTINGS[name])
    model = changed(MODEL, **values.pop("model", {}))
    optim = changed(OptimConfig(), **values.pop("optim", {}))
    _compare(changed(RUN, model=model, optim=optim, **values))


def _compare(run):
    compiled = compiled_bytes(run)[0]
    assert compiled < estimate_bytes(run).total < 4 * compiled


def test_what_saves_memory_is_in_the_estimate():
    """Each of these was left out of one of the three estimates that there were."""

    def held(optim=OptimConfig(), **values):  # noqa: B008
        model = changed(MODEL, **values.pop("model", {}))
        return estimate_bytes(changed(RUN, model=model, optim=optim, **values))

    plain = held()
    assert held(model={"remat": "block"}).activations < plain.activations
    assert held(loss_chunk=64).head == plain.head * 64 / (4 * 256)
    assert held(changed(OptimConfig(), name="adam8bit")).opt_state < plain.opt_state
    wide = held(model={"attention_impl": "blockwise", "seq_len": 1024})
    assert wide.activations < held(model={"seq_len": 1024}).activations
    experts = {"mlp_pattern": ("experts",), "num_experts": 4, "experts_per_token": 2}
    assert held(model=experts).activations > plain.activations


def test_a_kernel_that_keeps_no_scores_counts_none():
    model = changed(MODEL, head_dim=128, seq_len=1024)
    run = changed(RUN, model=model)
    scores = 2 * 5 * model.num_heads * 1024 * model.depth  # bytes of a token, on a CPU
    spared = estimate_bytes(run).total - estimate_bytes(run, platform="tpu").total
    assert spared == 4 * 1024 * scores
