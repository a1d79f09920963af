"""Model folders in and out: one loader for ours and Hugging Face's, and a writer for each."""

from gptjax.convert.families import FAMILIES, Family, Tensor
from gptjax.convert.huggingface import (
    family_of,
    from_huggingface,
    read_config,
    to_huggingface,
)
from gptjax.convert.load import Model, load
from gptjax.convert.own_folder import TOKENIZER_SETTINGS, save_model

__all__ = [
    "FAMILIES",
    "TOKENIZER_SETTINGS",
    "Family",
    "Model",
    "Tensor",
    "family_of",
    "from_huggingface",
    "load",
    "read_config",
    "save_model",
    "to_huggingface",
]
