"""Vision presets: published vision models as data, with the source of each table."""

import dataclasses

from gptjax.errors import UserError, nearest
from gptjax.models.presets import preset
from gptjax.models.vision.cross_attention import CrossText
from gptjax.models.vision.image_text import ProjectedVision
from gptjax.models.vision.tile_encoder import TileConfig
from gptjax.models.vision.tiled import TiledVision
from gptjax.models.vision.vit import VisionConfig

# Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), table 1, at 224 pixels and without a
# head; num_classes=1000 gives those tuned to ImageNet.
_VIT = {  # name: (patch_size, depth, width, num_heads)
    "vit-b16": (16, 12, 768, 12),
    "vit-l16": (16, 24, 1024, 16),
    "vit-h14": (14, 32, 1280, 16),
}

# Radford et al., "Learning Transferable Visual Models From Natural Language Supervision" (2021),
# table 20, the image encoder without its projection, with the released configuration.
_CLIP_L14_336 = VisionConfig(
    image_size=336,
    patch_size=14,
    depth=24,
    width=1024,
    num_heads=16,
    norm_eps=1e-5,
    mlp="quick_gelu",
    patch_bias=False,
    first_norm=True,
)

# Liu et al., "Improved Baselines with Visual Instruction Tuning" (2023): Vicuna v1.5, which has
# Llama 2's shape, and CLIP; with the released vocabulary of 32,064, of which 32,000 is the image's
# token.
_LLAVA = {  # name: text model
    "llava-1.5-7b": "llama2-7b",
    "llava-1.5-13b": "llama2-13b",
}

# Grattafiori et al., "The Llama 3 Herd of Models" (2024), section 7, with the released shapes: the
# text parts of `presets.py` and cross-attention before every fourth of their layers. Of 90B both
# releases have tiles of 560 pixels.
_LLAMA32 = {  # name: (text model, image_size)
    "llama3.2-11b-vision": ("llama3.2-11b-text", 448),
    "llama3.2-11b-vision-instruct": ("llama3.2-11b-text", 560),
    "llama3.2-90b-vision": ("llama3.2-90b-text", 560),
}


def _vit(patch_size: int, depth: int, width: int, num_heads: int) -> VisionConfig:
    return VisionConfig(patch_size=patch_size, depth=depth, width=width, num_heads=num_heads)


def _llava(text: str) -> ProjectedVision:
    vicuna = dataclasses.replace(preset(text), vocab_size=32064, preset="")
    return ProjectedVision(vicuna, _CLIP_L14_336, image_token=32000)


def _llama32(text: str, image_size: int) -> TiledVision:
    llama = dataclasses.replace(preset(text), preset="")
    places = range(3, llama.depth + llama.depth // 4, 5)
    tower = TileConfig(image_size=image_size)
    return TiledVision(CrossText(llama, tuple(places)), tower, image_token=128256)


VISION_PRESETS: dict[str, VisionConfig | ProjectedVision | TiledVision] = {
    **{name: _vit(*row) for name, row in _VIT.items()},
    "clip-vit-l14-336": _CLIP_L14_336,
    **{name: _llava(text) for name, text in _LLAVA.items()},
    **{name: _llama32(*row) for name, row in _LLAMA32.items()},
}


def vision_preset(name: str) -> VisionConfig | ProjectedVision | TiledVision:
    """The published model of that name.

    Raises:
      UserError: for an unknown name, with the nearest known one.
    """
    if name not in VISION_PRESETS:
        raise UserError(f"vision preset {name!r} is not known; {nearest(name, VISION_PRESETS)}")
    return VISION_PRESETS[name]
