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
from gptjax.models.config import SPARSE, Layer, ModelConfig, beyond_blockwise, validate
from gptjax.models.experts import Routing, loss_names, router_penalty
from gptjax.models.pieces import Pieces
from gptjax.models.presets import PRESETS, preset, resolve
from gptjax.models.sparse import cache_bytes

__all__ = [
    "PRESETS",
    "SPARSE",
    "Layer",
    "ModelConfig",
    "ParamCount",
    "Pieces",
    "Routing",
    "apply",
    "beyond_blockwise",
    "cache_bytes",
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
