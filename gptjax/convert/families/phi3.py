"""Phi-3."""

import dataclasses

from gptjax.convert.families.llama import ALWAYS, AROUND, ATTRIBUTES, LLAMA, TWO_NORMS
from gptjax.convert.families.table import Attribute, Rope, linear, with_rows

PHI3 = dataclasses.replace(
    LLAMA,
    model_type="phi3",
    architecture="Phi3ForCausalLM",
    attributes=with_rows(
        ATTRIBUTES,
        Attribute("max_position_embeddings", "seq_len", 4096),
        Attribute("rms_norm_eps", "norm_eps", 1e-5),
    ),
    always=ALWAYS,
    biases=None,
    rope=Rope(
        partial=True,
        kinds=("default", "longrope"),
        renamed={"su": "longrope", "yarn": "longrope"},
        original=4096,
    ),
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
