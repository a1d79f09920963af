"""Decoders: frozen configs, linen modules, published presets as data."""

from gptjax.models.api import ParamCount, apply, count_params, init, logical_axes
from gptjax.models.config import ModelConfig, validate
from gptjax.models.presets import PRESETS, preset, resolve

__all__ = [
    "PRESETS",
    "ModelConfig",
    "ParamCount",
    "apply",
    "count_params",
    "init",
    "logical_axes",
    "preset",
    "resolve",
    "validate",
]
