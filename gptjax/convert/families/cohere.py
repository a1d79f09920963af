"""Command R and R+ (Cohere)."""

from gptjax.convert.families.llama import AROUND, ATTRIBUTES, GATED_MLP
from gptjax.convert.families.table import (
    ATTENTION_BIAS,
    Attribute,
    Biases,
    Family,
    Rope,
    Tensor,
    norm,
    separate_attention,
    with_rows,
    without,
)

COHERE = Family(
    "cohere",
    "CohereForCausalLM",
    "model.",
    (
        *with_rows(
            without(ATTRIBUTES, "norm_eps"),
            Attribute("max_position_embeddings", "seq_len", 8192),
            Attribute("tie_word_embeddings", "tied_head", True),
        ),
        Attribute("layer_norm_eps", "norm_eps", 1e-5),
        Attribute("logit_scale", "logit_scale", 0.0625),
        Attribute("use_qk_norm", "qk_norm", False, {False: "none", True: "per_head", None: "none"}),
    ),
    {
        "norm": "layernorm",
        "positions": "rotary",
        "rope.layout": "interleaved",
        "block": "parallel_shared_norm",
    },
    (
        *AROUND,
        *norm("layers.{i}.input_layernorm", "attention_norm"),
        *separate_attention("layers.{i}.self_attn", bias=True, out_bias=True),
        *GATED_MLP,
        Tensor("layers.{i}.self_attn.q_norm.weight", ("attention/query_norm_scale",), False),
        Tensor("layers.{i}.self_attn.k_norm.weight", ("attention/key_norm_scale",), False),
    ),
    rope=Rope(base=5e5),
    biases=Biases(ATTENTION_BIAS),
)
