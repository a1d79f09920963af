"""Phi-3."""

import dataclasses

from gptjax.convert.families.llama import AROUND, ATTRIBUTES, LLAMA, TWO_NORMS
from gptjax.convert.families.table import Attribute, linear, replaced, without

PHI3 = dataclasses.replace(
    LLAMA,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    attributes=replaced(
        without(ATTRIBUTES, "head_dim"),
        Attribute("max_position_embeddings", "seq_len", 4096),
        Attribute("rms_norm_eps", "norm_eps", 1e-5),
    ),
    only={"attention_bias": False},
    layers="every",
    tensors=(
        *AROUND,
        *TWO_NORMS,
        *linear(
            "layers.{i}.self_attn.qkv_proj", "attention/query", "attention/key", "attention/value"
        ),
        *linear("layers.{i}.self_attn.o_proj", "attention/out", inputs=2),
        *linear("layers.{i}.mlp.gate_up_proj", "mlp/gate", "mlp/up"),
        *linear("layers.{i}.mlp.down_proj", "mlp/down"),
    ),
)
