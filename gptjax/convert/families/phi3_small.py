"""Phi-3-small."""

from typing import Any

from gptjax.convert.families.table import REQUIRED, Attribute, Family, Tensor, linear, norm, sizes


def _scale_of_scores(attributes: dict[str, Any]) -> dict[str, Any]:
    """muP divides scores by head_dim / mup_attn_multiplier: the multiplier becomes the scale."""
    found = {"mup_attn_multiplier": 1.0, "mup_use_scaling": True, **attributes}
    if "hidden_size" in found and "num_attention_heads" in found:
        head = found["hidden_size"] // found["num_attention_heads"]
        used = found["mup_use_scaling"]
        found["mup_attn_multiplier"] = found["mup_attn_multiplier"] / head if used else head**-0.5
    return {name: value for name, value in found.items() if name != "mup_use_scaling"}


def _with_mup(attributes: dict[str, Any]) -> dict[str, Any]:
    head = attributes["hidden_size"] // attributes["num_attention_heads"]
    return {
        **attributes,
        "mup_use_scaling": True,
        "mup_attn_multiplier": attributes["mup_attn_multiplier"] * head,
        "blocksparse_triton_kernel_block_size": attributes["blocksparse_block_size"],
    }


# `transformers` has no such class: names, defaults and layouts of the released code of
# Phi-3-small-8k-instruct (modeling_phi3_small.py, configuration_phi3_small.py).
PHI3_SMALL = Family(
    "phi3small",
    "Phi3SmallForCausalLM",
    "model.",
    (
        *sizes(
            vocab_size="vocab_size",
            width="hidden_size",
            depth="num_hidden_layers",
            num_heads="num_attention_heads",
        ),
        Attribute("num_key_value_heads", "num_kv_heads", 8),
        Attribute("ff_intermediate_size", "mlp_width", 14336),
        Attribute("max_position_embeddings", "seq_len", 8192),
        Attribute("layer_norm_epsilon", "norm_eps", 1e-5),
        Attribute("tie_word_embeddings", "tied_head", True),
        Attribute("hidden_act", "mlp", "gegelu", {"gegelu": "gegelu"}),
        Attribute("gegelu_limit", "mlp_limit", 20.0, lambda c: c or 0.0, lambda c: c or None),
        Attribute(
            "mup_embedding_multiplier", "embedding_scale", 10.0, lambda c: c if c and c > 0 else 1.0
        ),
        Attribute(
            "mup_width_multiplier",
            "logit_scale",
            8.0,
            lambda c: 1 / (c or 1.0),
            lambda scale: 1 / scale,
        ),
        Attribute("mup_attn_multiplier", "attention_scale", REQUIRED),
        Attribute("rope_embedding_base", "rope.base", 1e6, float),
        Attribute("blocksparse_block_size", "mixer.sparse.block", 64),
        Attribute("blocksparse_num_local_blocks", "mixer.blocksparse.local_blocks", 16),
        Attribute("blocksparse_vert_stride", "mixer.blocksparse.stride", 8),
    ),
    {"norm": "layernorm", "positions": "rotary", "layer_pattern": ("blocksparse", "global")},
    (
        Tensor("embed_tokens.weight", ("embed/tokens",), False),
        *norm("final_layernorm", "final_norm", bias=True),
        *norm("layers.{i}.input_layernorm", "attention_norm", bias=True),
        *norm("layers.{i}.post_attention_layernorm", "mlp_norm", bias=True),
        *linear(
            "layers.{i}.self_attn.query_key_value",
            "attention/query",
            "attention/key",
            "attention/value",
            bias=True,
            by_head=True,
        ),
        *linear("layers.{i}.self_attn.dense", "attention/out", bias=True, inputs=2),
        *linear("layers.{i}.mlp.up_proj", "mlp/gate", "mlp/up", bias=True, by_column=True),
        *linear("layers.{i}.mlp.down_proj", "mlp/down", bias=True),
    ),
    only={
        "blocksparse_homo_head_pattern": False,
        "ff_dim_multiplier": None,
        "rope_position_scale": 1.0,
        "rope_scaling": None,
    },
    layers="dense_every",
    prepare=_scale_of_scores,
    finish=_with_mup,
)
