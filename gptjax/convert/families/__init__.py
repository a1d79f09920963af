"""Hugging Face families as tables: which attribute is which field, which tensor which leaf.

Names and defaults are those of the `transformers` configuration classes of the same model type.
A family is one file here and one entry of FAMILIES.
"""

from gptjax.convert.families.cohere import COHERE
from gptjax.convert.families.deepseek import DEEPSEEK2
from gptjax.convert.families.gemma import GEMMA2
from gptjax.convert.families.gpt import GPT1, GPT2
from gptjax.convert.families.gpt_neox import NEOX
from gptjax.convert.families.granite import GRANITE
from gptjax.convert.families.llama import LLAMA
from gptjax.convert.families.mamba import MAMBA
from gptjax.convert.families.mistral import MINISTRAL, MISTRAL, MIXTRAL
from gptjax.convert.families.mpt import MPT
from gptjax.convert.families.phi3 import PHI3
from gptjax.convert.families.phi3_small import PHI3_SMALL
from gptjax.convert.families.qwen import QWEN2, QWEN3
from gptjax.convert.families.table import (
    GATED,
    PLAIN,
    REQUIRED,
    Attribute,
    Biases,
    Family,
    Rope,
    Tensor,
    linear,
    norm,
)

__all__ = [
    "FAMILIES",
    "GATED",
    "INSTEAD",
    "LLAMA",
    "PLAIN",
    "REQUIRED",
    "Attribute",
    "Biases",
    "Family",
    "Rope",
    "Tensor",
    "linear",
    "norm",
]

FAMILIES: dict[str, Family] = {
    family.model_type: family
    for family in (
        GPT2,
        GPT1,
        LLAMA,
        MISTRAL,
        MINISTRAL,
        QWEN2,
        QWEN3,
        GRANITE,
        GEMMA2,
        PHI3,
        COHERE,
        NEOX,
        MPT,
        MIXTRAL,
        DEEPSEEK2,
        MAMBA,
        PHI3_SMALL,
    )
}
INSTEAD: dict[str, dict[str, str]] = {"mistral": {"layer_types": "ministral"}}
"""Model type → attribute → the type that AutoConfig of `transformers` takes where it is given."""
