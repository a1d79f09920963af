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
    picture_places,
    see,
)
from gptjax.models.config import Layer, ModelConfig
from gptjax.models.decode import (
    Cache,
    cache_axes,
    check_decodes,
    decode,
    held_bytes,
    init_cache,
    logits,
    rewinds,
    rope_length,
    unstacked,
)
from gptjax.models.experts import Routing, loss_names, router_penalty
from gptjax.models.layer_costs import cache_bytes, forward_flops
from gptjax.models.mixers.cache import Stream
from gptjax.models.mixers.kernels import attention_kernel, beyond_blockwise
from gptjax.models.mixers.mixer import MIXERS, Mixer, TokenInfo, mixer_of, register
from gptjax.models.mlp import MLPS
from gptjax.models.presets import PRESETS, preset, resolve
from gptjax.models.stages import Stages
from gptjax.models.validate import validate
from gptjax.models.vision.config import JOINS, PictureConfig, Seen
from gptjax.models.vision.cross_attention import (
    CrossText,
    apply_cross_text,
    count_cross_text,
    init_cross_text,
)
from gptjax.models.vision.image_text import (
    GatedVision,
    ProjectedVision,
    apply_gated,
    apply_projected,
    init_gated,
    init_projected,
    project_images,
)
from gptjax.models.vision.joins import scaled
from gptjax.models.vision.presets import VISION_PRESETS, vision_preset
from gptjax.models.vision.tile_encoder import TileConfig, count_tiles, encode_tiles, init_tiles
from gptjax.models.vision.tiled import (
    TiledVision,
    apply_tiled,
    count_tiled,
    images_shown,
    init_tiled,
    project_tiles,
)
from gptjax.models.vision.vit import (
    VisionConfig,
    classify_images,
    encode_images,
    init_vision,
    pool_images,
)

__all__ = [
    "JOINS",
    "MIXERS",
    "MLPS",
    "PRESETS",
    "VISION_PRESETS",
    "Cache",
    "CrossText",
    "GatedVision",
    "Layer",
    "Mixer",
    "ModelConfig",
    "ParamCount",
    "PictureConfig",
    "ProjectedVision",
    "Routing",
    "Seen",
    "Stages",
    "Stream",
    "TileConfig",
    "TiledVision",
    "TokenInfo",
    "VisionConfig",
    "apply",
    "apply_cross_text",
    "apply_gated",
    "apply_projected",
    "apply_tiled",
    "attention_kernel",
    "beyond_blockwise",
    "cache_axes",
    "cache_bytes",
    "check_decodes",
    "classify_images",
    "count_active_params",
    "count_cross_text",
    "count_params",
    "count_tiled",
    "count_tiles",
    "decode",
    "encode_images",
    "encode_tiles",
    "features",
    "forward",
    "forward_flops",
    "held_bytes",
    "images_shown",
    "init",
    "init_cache",
    "init_cross_text",
    "init_gated",
    "init_projected",
    "init_tiled",
    "init_tiles",
    "init_vision",
    "logical_axes",
    "logits",
    "loss_names",
    "mixer_of",
    "picture_places",
    "pool_images",
    "preset",
    "project_images",
    "project_tiles",
    "register",
    "resolve",
    "rewinds",
    "rope_length",
    "router_penalty",
    "scaled",
    "see",
    "unstacked",
    "validate",
    "vision_preset",
]
