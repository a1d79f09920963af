"""Registry of readers and writers, by `model_type` and by the type of a config."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from gptjax import models
from gptjax.convert.config_json import family_of, read_attributes, write_attributes
from gptjax.convert.families import FAMILIES
from gptjax.convert.tensor_map import Names, TensorMap, text_map
from gptjax.convert.vision.encoders import VISION_FAMILIES, read_clip, read_vision, write_vision
from gptjax.convert.vision.llava import MODEL_TYPE, read_projected, write_projected
from gptjax.convert.vision.mllama import read_mllama, write_mllama
from gptjax.errors import UserError, nearest
from gptjax.models import ModelConfig, ProjectedVision, TiledVision, VisionConfig

Read = Callable[[Mapping[str, Any], Names], TensorMap]
Write = Callable[[Any, str], tuple[dict[str, Any], TensorMap]]


@dataclasses.dataclass(frozen=True)
class Kind:
    """What is common to models with one type of config.

    Attributes:
      config: the type.
      init: (config, key) -> fresh parameters.
      write: (config, model_type) -> config.json and tensor_map.
    """

    config: type
    init: Callable[[Any, Any], Any]
    write: Write


def read_map(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    """The tensor_map of the model that a config.json describes.

    Args:
      names: the folder's tensors, asked for where config.json does not say what there is.

    Raises:
      UserError: for a family or an attribute that is not known.
    """
    name = attributes.get("model_type")
    if not isinstance(name, str) or name not in READERS:
        raise UserError(
            f"config.json has model_type={name!r}, which gptjax does not read; "
            f"it reads {', '.join(READERS)}"
        )
    return READERS[name](attributes, names)


def write_map(config: Any, model_type: str) -> tuple[dict[str, Any], TensorMap]:
    """config.json and tensor_map of a model; an empty `model_type` is the first that fits.

    Raises:
      UserError: where the family lacks something that the config has.
    """
    return kind_of(config).write(config, model_type)


def kind_of(config: Any) -> Kind:
    """The entry of the config's type.

    Raises:
      UserError: for models that no folder can hold.
    """
    for kind in KINDS.values():
        if type(config) is kind.config:
            return kind
    raise UserError(
        f"a {type(config).__name__} is in no family of `transformers`; convert its parts"
    )


def _read_text(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    return text_map(*read_attributes(attributes))


def _write_text(config: ModelConfig, model_type: str) -> tuple[dict[str, Any], TensorMap]:
    if model_type and model_type not in FAMILIES:
        raise UserError(f"model_type={model_type!r} is not known; {nearest(model_type, FAMILIES)}")
    family = FAMILIES[model_type] if model_type else family_of(config)
    return write_attributes(family, config), text_map(family, config)


KINDS: dict[str, Kind] = {
    "decoder": Kind(ModelConfig, models.init, _write_text),
    "vision": Kind(VisionConfig, models.init_vision, write_vision),
    "projected": Kind(ProjectedVision, models.init_projected, write_projected),
    "tiled": Kind(TiledVision, models.init_tiled, write_mllama),
}
READERS: dict[str, Read] = {
    **dict.fromkeys(FAMILIES, _read_text),
    **dict.fromkeys(VISION_FAMILIES, read_vision),
    "clip": read_clip,
    MODEL_TYPE: read_projected,
    "mllama": read_mllama,
}
