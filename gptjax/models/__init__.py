"""Decoders: frozen configs, linen modules, published presets as data."""

from gptjax.models.api import ParamCount, apply, count_params, init, logical_axes
from gptjax.models.config import ModelConfig, validate

__all__ = [
    "ModelConfig",
    "ParamCount",
    "apply",
    "count_params",
    "init",
    "logical_axes",
    "validate",
]
