"""Llava: attributes of its parts, and its tensor names in three generations of files."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax import models
from gptjax.convert.config_json import (
    LOADING,
    check_rest,
    family_of,
    read_attributes,
    write_attributes,
)
from gptjax.convert.families import FAMILIES, Family, Tensor
from gptjax.convert.tensor_map import (
    Names,
    Source,
    Sources,
    TensorMap,
    by_path,
    inside,
    shapes_of,
    text_map,
)
from gptjax.convert.vision.encoders import (
    NOT_WEIGHTS,
    VisionFamily,
    fitting,
    read_vision_attributes,
    vision_sources,
    write_vision_attributes,
)
from gptjax.errors import UserError
from gptjax.models import ProjectedVision

MODEL_TYPE = "llava"
ONLY = {
    "projector_hidden_act": "gelu",
    "vision_feature_select_strategy": "default",
    "multimodal_projector_bias": True,
}
# Files of this kind say of their text model only what differs from its class's defaults.
TEXT_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
    },
    "mistral": {
        "vocab_size": 32000,
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
    "qwen2": {
        "vocab_size": 151936,
        "hidden_size": 4096,
        "intermediate_size": 22016,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
}
# To the names that save_pretrained writes today, from those of a module's state and of older files.
ALIASES = (
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.language_model\.", "language_model.model."),
    (r"^model\.(vision_tower|multi_modal_projector)\.", r"\1."),
    (r"^vision_tower\.vision_model\.", "vision_tower."),
)


def read_projected(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    """The tensor_map of a Llava with any vision transformer and any text model of `model.` names.

    Raises:
      UserError: for an unknown family, and for any attribute that is not known, in all parts.
    """
    left = dict(attributes)
    text, vision = dict(left.pop("text_config", {})), dict(left.pop("vision_config", {}))
    token = left.pop("image_token_index", left.pop("image_token_id", 32000))
    layer = left.pop("vision_feature_layer", -2)
    tied = left.pop("tie_word_embeddings", False)
    if not isinstance(layer, int):
        raise UserError(
            f"config.json has vision_feature_layer={layer!r}, and one layer is read; convert "
            "another model"
        )
    check_rest(left, {**LOADING, **ONLY}, MODEL_TYPE)
    kind = text.setdefault("model_type", "llama")
    vision.setdefault("model_type", "clip_vision_model")
    text = {**TEXT_DEFAULTS.get(kind, {}), **text}
    if tied:  # else the text model's own word counts
        text["tie_word_embeddings"] = True
    text_family, text_config = read_attributes(text)
    vision_family, vision_config = read_vision_attributes(vision)
    pooler = any(name.endswith("vision_tower.pooler.dense.weight") for name in names())
    vision_config = dataclasses.replace(vision_config, pooler=pooler)
    config = ProjectedVision(text_config, vision_config, token, layer)
    return _map(text_family, vision_family, config)


def write_projected(config: ProjectedVision, model_type: str) -> tuple[dict[str, Any], TensorMap]:
    """config.json and tensor_map of a Llava.

    Args:
      model_type: "llava" or empty; those of its parts are the first that fit.

    Raises:
      UserError: naming the first field that Llava does not have.
    """
    if model_type not in ("", MODEL_TYPE):
        raise UserError(
            f"model_type={model_type!r} is no decoder that sees projected patches; it is written "
            f"as {MODEL_TYPE}"
        )
    text_family, vision_family = family_of(config.text), fitting(config.vision)
    lacks = {
        "projector_layers": (config.projector_layers, 2),
        "vision.num_classes": (config.vision.num_classes, 0),
    }
    for name, (value, wanted) in lacks.items():
        if value != wanted:
            raise UserError(
                f"{name}={value} cannot be written as model_type={MODEL_TYPE}, which has {wanted}"
            )
    if config.feature_layer is None:
        raise UserError(
            f"feature_layer=None, the normed output, cannot be written as model_type={MODEL_TYPE}; "
            "set a layer, as -2"
        )
    attributes = {
        "architectures": ["LlavaForConditionalGeneration"],
        "model_type": MODEL_TYPE,
        "text_config": write_attributes(text_family, config.text),
        "vision_config": write_vision_attributes(vision_family, config.vision),
        "image_token_index": config.image_token,
        "image_seq_length": config.vision.patches,
        "vision_feature_layer": config.feature_layer,
        "tie_word_embeddings": config.text.tied_head,
        **ONLY,
    }
    return attributes, _map(text_family, vision_family, config)


def _map(text_family: Family, vision_family: VisionFamily, config: ProjectedVision) -> TensorMap:
    if text_family.prefix != "model.":
        fit = ", ".join(name for name, family in FAMILIES.items() if family.prefix == "model.")
        raise UserError(
            f"a {text_family.model_type} cannot be the text model of a {MODEL_TYPE} in "
            f"`transformers`; {fit} can"
        )
    shapes = shapes_of(models.init_projected, config)
    text = text_map(text_family, config.text)
    vision = vision_sources(vision_family, config.vision, by_path(shapes["vision"]), "")
    at = "language_model."
    sources = {
        **inside(text.sources, "text/", at),
        **inside(vision, "vision/", "vision_tower."),
        **_projector(config.projector_layers),
    }
    repeats = {at + name: at + embedding for name, embedding in text.repeats.items()}
    ignored = (*text.ignored, *NOT_WEIGHTS)
    return TensorMap(MODEL_TYPE, config, shapes, sources, ALIASES, repeats, ignored)


def _projector(layers: int) -> Sources:
    sources: Sources = {}
    for number in range(layers):
        at, theirs = f"projector/{number}", f"multi_modal_projector.linear_{number + 1}"
        kernel = Tensor(f"{theirs}.weight", ("kernel",))
        bias = Tensor(f"{theirs}.bias", ("bias",), False, 0)
        sources[f"{at}/kernel"] = [Source((), kernel.name, kernel, (f"{at}/kernel",))]
        sources[f"{at}/bias"] = [Source((), bias.name, bias, (f"{at}/bias",))]
    return sources
