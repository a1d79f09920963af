"""Granite: Llama with multipliers."""

import dataclasses

from gptjax.convert.families.llama import ATTRIBUTES, LLAMA
from gptjax.convert.families.table import Attribute

GRANITE = dataclasses.replace(
    LLAMA,
    model_type="granite",
    architecture="GraniteForCausalLM",
    attributes=(
        *ATTRIBUTES,
        Attribute("embedding_multiplier", "embedding_scale", 1.0),
        Attribute("residual_multiplier", "residual_scale", 1.0),
        Attribute("attention_multiplier", "attention_scale", 1.0),
        Attribute("logits_scaling", "logit_scale", 1.0, lambda c: 1 / c, lambda scale: 1 / scale),
    ),
)
