"""Decoders and vision: frozen configs, linen modules, published presets as data."""

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
from gptjax.models.config import SPARSE, Layer, ModelConfig, beyond_blockwise
from gptjax.models.experts import Routing, loss_names, router_penalty
from gptjax.models.joined import (
    GatedVision,
    ProjectedVision,
    apply_gated,
    apply_projected,
    init_gated,
    init_projected,
    project_images,
)
from gptjax.models.pieces import Pieces
from gptjax.models.presets import PRESETS, preset, resolve
from gptjax.models.sparse import cache_bytes
from gptjax.models.validate import validate
from gptjax.models.vision import (
    VisionConfig,
    classify_images,
    encode_images,
    init_vision,
    pool_images,
)

__all__ = [
    "PRESETS",
    "SPARSE",
    "GatedVision",
    "Layer",
    "ModelConfig",
    "ParamCount",
    "Pieces",
    "ProjectedVision",
    "Routing",
    "VisionConfig",
    "apply",
    "apply_gated",
    "apply_projected",
    "beyond_blockwise",
    "cache_bytes",
    "classify_images",
    "count_active_params",
    "count_params",
    "encode_images",
    "features",
    "forward",
    "init",
    "init_gated",
    "init_projected",
    "init_vision",
    "logical_axes",
    "loss_names",
    "pool_images",
    "preset",
    "project_images",
    "resolve",
    "router_penalty",
    "validate",
]
