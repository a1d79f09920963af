"""Decoders: frozen configs, linen modules, published presets as data."""

from gptjax.models.api import (
    ParamCount,
    apply,
    count_active_params,
    count_params,
    features,
    forward,
    init,
    logical_axes,
)
from gptjax.models.config import Layer, ModelConfig, validate
from gptjax.models.experts import Routing, loss_names, router_penalty
from gptjax.models.pieces import Pieces
from gptjax.models.presets import PRESETS, preset, resolve

__all__ = [
    "PRESETS",
    "Layer",
    "ModelConfig",
    "ParamCount",
    "Pieces",
    "Routing",
    "apply",
    "count_active_params",
    "count_params",
    "features",
    "forward",
    "init",
    "logical_axes",
    "loss_names",
    "preset",
    "resolve",
    "router_penalty",
    "validate",
]
