"""Qwen2 and Qwen3 (dense)."""

import dataclasses

from gptjax.convert.families.llama import (
    ALWAYS,
    AROUND,
    ATTRIBUTES,
    GATED_MLP,
    LLAMA,
    TENSORS,
    TWO_NORMS,
)
from gptjax.convert.families.table import Attribute, Tensor, replaced, separate_attention

QWEN2 = dataclasses.replace(
    LLAMA,
    model_type="qwen2",
    architecture="Qwen2ForCausalLM",
    attributes=replaced(ATTRIBUTES, Attribute("max_position_embeddings", "seq_len", 32768)),
    always={**ALWAYS, "use_bias": True, "bias_places": ("qkv",)},
    only={},
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
    attributes=replaced(QWEN2.attributes, Attribute("head_dim", "head_dim", 128)),
    always={**ALWAYS, "qk_norm": "shared"},
    only={"attention_bias": False},
    tensors=(
        *TENSORS,
        Tensor("layers.{i}.self_attn.q_norm.weight", ("attention/query_norm_scale",), False),
        Tensor("layers.{i}.self_attn.k_norm.weight", ("attention/key_norm_scale",), False),
    ),
)
