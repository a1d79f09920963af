"""Gemma 2."""

from gptjax.convert.families.llama import AROUND, ATTRIBUTES, GATED_MLP, SOME_BIASES
from gptjax.convert.families.table import (
    ATTENTION_BIAS,
    GATED,
    Attribute,
    Biases,
    Family,
    Rope,
    norm,
    separate_attention,
    with_rows,
    without,
)


def _cap(value: float | None) -> float:
    """0 for none; theirs divides by a 0."""
    if value is None:
        return 0.0
    if not value > 0:
        raise ValueError("a soft cap is above 0, or null")
    return value


GEMMA2 = Family(
    "gemma2",
    "Gemma2ForCausalLM",
    "model.",
    (
        *with_rows(
            without(ATTRIBUTES, "mlp"),
            Attribute("tie_word_embeddings", "tied_head", True),
            Attribute("head_dim", "head_dim", 256),
            Attribute("max_position_embeddings", "seq_len", 8192),
        ),
        Attribute("hidden_activation", "mlp", "gelu_pytorch_tanh", GATED),
        Attribute(
            "query_pre_attn_scalar",
            "attention_scale",
            256,
            lambda width: width**-0.5,
            lambda scale: round(scale**-2),
        ),
        Attribute("attn_logit_softcapping", "attention_soft_cap", 50.0, _cap, lambda c: c or None),
        Attribute("final_logit_softcapping", "logit_soft_cap", 30.0, _cap, lambda c: c or None),
    ),
    {
        **SOME_BIASES,
        "norm_place": "both",
        "norm_plus_one": True,
        "embedding_scale": 0.0,
    },
    (
        *AROUND,
        *norm("layers.{i}.input_layernorm", "attention_norm"),
        *norm("layers.{i}.post_attention_layernorm", "attention_out_norm"),
        *norm("layers.{i}.pre_feedforward_layernorm", "mlp_norm"),
        *norm("layers.{i}.post_feedforward_layernorm", "mlp_out_norm"),
        *separate_attention("layers.{i}.self_attn", bias=True, out_bias=True),
        *GATED_MLP,
    ),
    only={"use_bidirectional_attention": None},
    rope=Rope(),
    biases=Biases(ATTENTION_BIAS),
    layers="alternate",
)
