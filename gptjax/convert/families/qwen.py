"""Qwen2 and Qwen3 (dense)."""

import dataclasses

from gptjax.convert.families.llama import (
    ALWAYS,
    AROUND,
    ATTRIBUTES,
    GATED_MLP,
    LLAMA,
    SOME_BIASES,
    TENSORS,
    TWO_NORMS,
)
from gptjax.convert.families.table import (
    ATTENTION_BIAS,
    Attribute,
    Biases,
    Tensor,
    separate_attention,
    with_rows,
)

QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    attributes=with_rows(
        ATTRIBUTES,
        Attribute("max_position_embeddings", "seq_len", 32768),
        Attribute("num_key_value_heads", "num_kv_heads", 32, lambda n: n or 0),
    ),
    always={**ALWAYS, "use_bias": True, "bias_places": ("qkv",)},
    biases=None,
    layers="above",
    tensors=(
        *AROUND,
        *TWO_NORMS,
        *separate_attention("layers.{i}.self_attn", bias=True),
        *GATED_MLP,
    ),
)
QWEN3 = dataclasses.replace(
    QWEN2,
    model_type="qwen3",
    architecture="Qwen3ForCausalLM",
    attributes=with_rows(QWEN2.attributes, Attribute("head_dim", "head_dim", 128)),
    always={**SOME_BIASES, "qk_norm": "shared"},
    biases=Biases(ATTENTION_BIAS),
    tensors=(
        *TENSORS,
        Tensor("layers.{i}.self_attn.q_norm.weight", ("attention/query_norm_scale",), False),
        Tensor("layers.{i}.self_attn.k_norm.weight", ("attention/key_norm_scale",), False),
    ),
)
