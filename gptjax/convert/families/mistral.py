"""Mistral, Ministral and Mixtral."""

import dataclasses

from gptjax.convert.families.llama import ALWAYS, AROUND, ATTRIBUTES, LLAMA, TWO_NORMS
from gptjax.convert.families.table import Attribute, Rope, linear, separate_attention, with_rows

MISTRAL = dataclasses.replace(
    LLAMA,
    model_type="mistral",
    architecture="MistralForCausalLM",
    attributes=with_rows(
        ATTRIBUTES,
        Attribute("max_position_embeddings", "seq_len", 131072),
        Attribute("num_key_value_heads", "num_kv_heads", 8, lambda n: n or 0),
    ),
    always=ALWAYS,
    biases=None,
    layers="every_4096",
)
MINISTRAL = dataclasses.replace(
    MISTRAL, model_type="ministral", architecture="MinistralForCausalLM", layers="named"
)
"""Mistral whose `layer_types` says which layers have the window."""


MIXTRAL = dataclasses.replace(
    MISTRAL,
    model_type="mixtral",
    architecture="MixtralForCausalLM",
    attributes=(
        *with_rows(
            ATTRIBUTES,
            Attribute("max_position_embeddings", "seq_len", 131072),
            Attribute("rms_norm_eps", "norm_eps", 1e-5),
            Attribute("num_key_value_heads", "num_kv_heads", 8, lambda n: n or 0),
        ),
        Attribute("num_local_experts", "experts.count", 8),
        Attribute("num_experts_per_tok", "experts.per_token", 2),
    ),
    always={**ALWAYS, "mlp_pattern": ("experts",)},
    rope=Rope(base=1e6),
    aliases={"num_experts": "num_local_experts"},
    layers="every",
    tensors=(
        *AROUND,
        *TWO_NORMS,
        *separate_attention("layers.{i}.self_attn"),
        *linear("layers.{i}.block_sparse_moe.gate", "mlp/router"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w1", "mlp/experts_gate"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w3", "mlp/experts_up"),
        *linear("layers.{i}.block_sparse_moe.experts.{e}.w2", "mlp/experts_down"),
    ),
)
