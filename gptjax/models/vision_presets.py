"""Published vision models as data. Sources are named beside each table."""

import dataclasses

from gptjax.errors import UserError, nearest
from gptjax.models.joined import ProjectedVision
from gptjax.models.presets import preset
from gptjax.models.vision import VisionConfig

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
    image_size=336, patch_size=14, depth=24, width=1024, num_heads=16, norm_eps=1e-5,
    mlp="quick_gelu", patch_bias=False, first_norm=True,
)  # fmt: skip

# Liu et al., "Improved Baselines with Visual Instruction Tuning" (2023): Vicuna v1.5, which has
# Llama 2's shape, and CLIP; with the released vocabulary of 32,064, of which 32,000 is the image's
# token.
_LLAVA = {  # name: text model
    "llava-1.5-7b": "llama2-7b",
    "llava-1.5-13b": "llama2-13b",
}


def _vit(patch_size: int, depth: int, width: int, num_heads: int) -> VisionConfig:
    return VisionConfig(patch_size=patch_size, depth=depth, width=width, num_heads=num_heads)


def _llava(text: str) -> ProjectedVision:
    vicuna = dataclasses.replace(preset(text), vocab_size=32064, preset="")
    return ProjectedVision(vicuna, _CLIP_L14_336, image_token=32000)


VISION_PRESETS: dict[str, VisionConfig | ProjectedVision] = {
    **{name: _vit(*row) for name, row in _VIT.items()},
    "clip-vit-l14-336": _CLIP_L14_336,
    **{name: _llava(text) for name, text in _LLAVA.items()},
}


def vision_preset(name: str) -> VisionConfig | ProjectedVision:
    """The published model of that name.

    Raises:
      UserError: for an unknown name, with the nearest known one.
    """
    if name not in VISION_PRESETS:
        raise UserError(f"vision preset {name!r} is not known; {nearest(name, VISION_PRESETS)}")
    return VISION_PRESETS[name]
