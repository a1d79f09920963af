"""Published weights in and out: Hugging Face folders of config.json and safetensors."""

from gptjax.convert.config import ConvertConfig
from gptjax.convert.families import FAMILIES, Family, Tensor
from gptjax.convert.huggingface import (
    family_of,
    from_huggingface,
    read_config,
    to_huggingface,
)
from gptjax.convert.own_folder import load_model, save_model

__all__ = [
    "FAMILIES",
    "ConvertConfig",
    "Family",
    "Tensor",
    "family_of",
    "from_huggingface",
    "load_model",
    "read_config",
    "save_model",
    "to_huggingface",
]
