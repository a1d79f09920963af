"""DeepSeek-V2."""

from typing import Any

from gptjax.convert.families.llama import (
    ALWAYS,
    AROUND,
    ATTRIBUTES,
    GATED_MLP,
    TWO_NORMS,
)
from gptjax.convert.families.table import REQUIRED, Attribute, Family, Rope, Tensor, linear, without
from gptjax.errors import UserError


def _group_limits(attributes: dict[str, Any]) -> dict[str, Any]:
    """DeepSeek-V2's "greedy" looks into all groups."""
    heads = attributes.get("num_key_value_heads")
    if heads not in (None, attributes.get("num_attention_heads")):
        raise UserError(
            f"config.json has num_key_value_heads={heads}, and latent attention has as many as "
            "num_attention_heads; correct it"
        )
    method = attributes.pop("topk_method", "greedy")
    if method == "greedy":
        return {**attributes, "n_group": 1, "topk_group": 1}
    return {**attributes, "topk_method": method}


def _some(experts: int) -> int:
    """The class has tensors of shared experts, empty ones too, which no file of ours has."""
    if not experts:
        raise ValueError("a deepseek_v2 has at least one shared expert")
    return experts


DEEPSEEK2 = Family(
    "deepseek_v2",
    "DeepseekV2ForCausalLM",
    "model.",
    (
        *without(ATTRIBUTES, "head_dim", "norm_eps"),
        Attribute(
            "q_lora_rank", "mixer.latent.q_rank", 1536, lambda r: r or 0, lambda r: r or None
        ),
        Attribute("kv_lora_rank", "mixer.latent.kv_rank", 512),
        Attribute("qk_nope_head_dim", "head_dim", 128),
        Attribute("qk_rope_head_dim", "mixer.latent.rope_dim", 64),
        Attribute("v_head_dim", "mixer.latent.value_dim", 128),
        Attribute("n_routed_experts", "experts.count", 64),
        Attribute("n_shared_experts", "experts.shared", 2, _some),
        Attribute("num_experts_per_tok", "experts.per_token", REQUIRED),
        Attribute("moe_intermediate_size", "experts.width", 1407),
        Attribute("first_k_dense_replace", "dense_layers", 0),
        Attribute("routed_scaling_factor", "experts.router_scale", 1.0, float),
        Attribute("n_group", "experts.router_groups", 1, lambda n: n or 1),
        Attribute("topk_group", "experts.router_top_groups", 1, lambda n: n or 1),
    ),
    {
        **ALWAYS,
        "rope.layout": "interleaved",
        "mlp_pattern": ("experts",),
        "experts.router": "softmax",
        "norm_eps": 1e-6,
    },
    (
        *AROUND,
        *TWO_NORMS,
        *linear("layers.{i}.self_attn.q_proj", "attention/query"),
        *linear("layers.{i}.self_attn.q_a_proj", "attention/query_down"),
        *linear("layers.{i}.self_attn.q_b_proj", "attention/query_up"),
        Tensor("layers.{i}.self_attn.q_a_layernorm.weight", ("attention/query_norm_scale",), False),
        *linear("layers.{i}.self_attn.kv_a_proj_with_mqa", "attention/kv_down"),
        Tensor("layers.{i}.self_attn.kv_a_layernorm.weight", ("attention/kv_norm_scale",), False),
        *linear("layers.{i}.self_attn.kv_b_proj", "attention/kv_up"),
        *linear("layers.{i}.self_attn.o_proj", "attention/out", inputs=2),
        *GATED_MLP,
        *linear("layers.{i}.mlp.gate", "mlp/router"),
        *(
            row
            for part in ("gate", "up", "down")
            for row in (
                *linear(f"layers.{{i}}.mlp.experts.{{e}}.{part}_proj", f"mlp/experts_{part}"),
                *linear(f"layers.{{i}}.mlp.shared_experts.{part}_proj", f"mlp/shared_{part}"),
            )
        ),
    ),
    only={
        "attention_bias": False,
        "mlp_bias": False,
        "topk_method": "group_limited_greedy",
        "rms_norm_eps": 1e-6,  # the norms of its latents have it fixed
    },
    aliases={"num_experts": "n_routed_experts"},
    rope=Rope(kinds=("default", "linear", "dynamic", "yarn", "llama3"), also=("mscale_all_dim",)),
    prepare=_group_limits,
)
