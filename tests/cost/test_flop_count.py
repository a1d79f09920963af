"""FLOPs counted by hand."""

import pytest
from flat_settings import changed

from gptjax import models
from gptjax.cost import flop_formulas, flops
from gptjax.errors import UserError
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec

GPT2 = {
    "depth": 12,
    "width": 768,
    "num_heads": 12,
    "mlp_width": 3072,
    "seq_len": 1024,
    "vocab_size": 50257,
}


def test_gpt2_small_by_hand():
    count = flop_formulas.forward_flops(**GPT2)
    assert count.attention_projections == 12 * 4 * 2 * 768 * 768
    assert count.attention_scores == 12 * 2 * 2 * 1024 * 768
    assert count.mlp == 12 * 2 * 2 * 768 * 3072
    assert count.head == 2 * 768 * 50257
    matmul_params = 12 * 12 * 768**2 + 768 * 50257
    dense = flop_formulas.training_flops_per_token(**GPT2) - 3 * count.attention_scores
    assert dense == flop_formulas.flops_6nd(matmul_params, 1)


def test_grouped_heads_gates_and_the_causal_half():
    full = flop_formulas.forward_flops(**GPT2)
    grouped = flop_formulas.forward_flops(**GPT2, num_kv_heads=4)
    assert full.attention_projections - grouped.attention_projections == 12 * 2 * 2 * 768 * 64 * 8
    assert flop_formulas.forward_flops(**GPT2, mlp_matrices=3).mlp == 1.5 * full.mlp
    assert flop_formulas.forward_flops(**GPT2, causal=True).attention_scores == pytest.approx(
        full.attention_scores * 1025 / 2048
    )


def test_windows_and_gated_attention():
    full = flop_formulas.forward_flops(**GPT2)
    local = flop_formulas.forward_flops(**GPT2, local_layers=6, window=256)
    assert local.attention_scores == full.attention_scores * (6 + 6 / 4) / 12
    wide = flop_formulas.forward_flops(**GPT2, local_layers=12, window=4096)
    assert wide.attention_scores == full.attention_scores
    # The first 3 of 8 queries see 1, 2, 3 keys, the others 3.
    tiny = {**GPT2, "depth": 1, "seq_len": 8}
    mean = flop_formulas.forward_flops(
        **tiny, local_layers=1, window=3, causal=True
    ).attention_scores
    assert mean == 2 * 2 * 768 * (1 + 2 + 6 * 3) / 8
    gated = flop_formulas.forward_flops(**GPT2, gated_attention=True)
    assert gated.attention_projections == 1.25 * full.attention_projections


def test_experts_latents_and_mamba_by_hand():
    """Two FLOPs for each weight that a token meets, and for each score and state."""
    base = changed(
        models.ModelConfig(),
        vocab_size=100,
        depth=2,
        width=16,
        num_heads=4,
        seq_len=32,
        norm="rmsnorm",
        positions="none",
        use_bias=False,
    )
    head = 2 * 16 * 100

    def forward(**changes):
        model = changed(base, **changes)
        return flops.training_flops_per_token(model) / 3 - head, model

    plain, _ = forward()
    experts = {
        "mlp_pattern": ("experts",),
        "num_experts": 8,
        "experts_per_token": 3,
        "expert_width": 5,
        "shared_experts": 1,
        "mlp": "swiglu",
    }
    mixed, model = forward(**experts)
    assert plain - mixed == 2 * 2 * (2 * 16 * 64 - 16 * 8 - 4 * 3 * 16 * 5)
    inside = models.count_active_params(model).non_embedding - 5 * 16  # norms
    assert mixed == 2 * inside + 2 * 2 * 2 * 32 * 16
    noisy, _ = forward(**experts, router_noise=True)
    assert noisy - mixed == 2 * 2 * 16 * 8
    run = RunSpec(model=model, optim=OptimConfig(), batch_size=3, steps=5)
    assert flops.flops_6nd(run) == 6 * (inside + 5 * 16 + 1600) * (3 * 5 * 32)
    latent = {"kv_rank": 6, "q_rank": 5, "rope_dim": 4, "value_dim": 3, "positions": "rotary"}
    narrow, model = forward(**latent)
    inside = models.count_params(model).non_embedding - 5 * 16 - 2 * 11
    assert narrow == 2 * inside + 2 * 2 * 32 * 4 * (4 + 4 + 3)
    state, model = forward(layer_pattern=("ssm",), mlp_pattern=("none",))
    small = 32 * (1 + 1 + 16 + 1)  # biases of convolution and step, A, D: no products
    inside = models.count_params(model).non_embedding - 3 * 16 - 2 * small
    assert state == 2 * inside + 2 * 2 * 2 * 32 * 16


def test_tokens_of_a_budget_and_a_budget_that_is_none():
    tokens = flop_formulas.tokens_for_budget(1e18, **GPT2)
    assert tokens * flop_formulas.training_flops_per_token(**GPT2) == pytest.approx(1e18)
    with pytest.raises(UserError, match="not a budget"):
        flop_formulas.tokens_for_budget(-1, **GPT2)
