"""Llama: attributes and tensors, which most later families extend."""

from gptjax.convert.families.table import (
    GATED,
    Attribute,
    Family,
    Rope,
    Tensor,
    linear,
    norm,
    separate_attention,
    sizes,
)

ATTRIBUTES = (
    *sizes(
        vocab_size="vocab_size",
        width="hidden_size",
        mlp_width="intermediate_size",
        depth="num_hidden_layers",
        num_heads="num_attention_heads",
    ),
    Attribute("num_key_value_heads", "num_kv_heads", 0, lambda n: n or 0),
    Attribute("head_dim", "head_dim", 0, lambda n: n or 0),
    Attribute("max_position_embeddings", "seq_len", 2048),
    Attribute("rms_norm_eps", "norm_eps", 1e-6),
    Attribute("tie_word_embeddings", "tied_head", False),
    Attribute("hidden_act", "mlp", "silu", GATED),
)
ALWAYS = {"norm": "rmsnorm", "positions": "rotary", "use_bias": False}


GATED_MLP = tuple(
    row
    for part in ("gate", "up", "down")
    for row in linear(f"layers.{{i}}.mlp.{part}_proj", f"mlp/{part}")
)
TWO_NORMS = (
    *norm("layers.{i}.input_layernorm", "attention_norm"),
    *norm("layers.{i}.post_attention_layernorm", "mlp_norm"),
)
AROUND = (Tensor("embed_tokens.weight", ("embed/tokens",), False), *norm("norm", "final_norm"))
TENSORS = (
    *AROUND,
    *TWO_NORMS,
    *separate_attention("layers.{i}.self_attn"),
    *GATED_MLP,
)
NO_BIASES = {"attention_bias": False, "mlp_bias": False}

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    "model.",
    ATTRIBUTES,
    ALWAYS,
    TENSORS,
    only=NO_BIASES,
    rope=Rope(),
)
