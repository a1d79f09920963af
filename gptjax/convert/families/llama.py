"""Llama: attributes and tensors, which most later families extend."""

from gptjax.convert.families.table import (
    ATTENTION_BIAS,
    GATED,
    MLP_BIAS,
    Attribute,
    Biases,
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
SOME_BIASES = {"norm": "rmsnorm", "positions": "rotary"}
ALWAYS = {**SOME_BIASES, "use_bias": False}


GATED_MLP = tuple(
    row
    for part in ("gate", "up", "down")
    for row in linear(f"layers.{{i}}.mlp.{part}_proj", f"mlp/{part}", bias=True)
)
"""With the biases, which a model has where its config has them."""

TWO_NORMS = (
    *norm("layers.{i}.input_layernorm", "attention_norm"),
    *norm("layers.{i}.post_attention_layernorm", "mlp_norm"),
)
AROUND = (Tensor("embed_tokens.weight", ("embed/tokens",), False), *norm("norm", "final_norm"))
TENSORS = (
    *AROUND,
    *TWO_NORMS,
    *separate_attention("layers.{i}.self_attn", bias=True, out_bias=True),
    *GATED_MLP,
)

LLAMA = Family(
    "llama",
    "LlamaForCausalLM",
    "model.",
    ATTRIBUTES,
    SOME_BIASES,
    TENSORS,
    rope=Rope(),
    biases=Biases(ATTENTION_BIAS | MLP_BIAS),
)
