"""The kinds of models that go in and out, by their config's type and by `model_type`."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from gptjax.convert.attributes import family_of, read_attributes, write_attributes
from gptjax.convert.families import FAMILIES
from gptjax.convert.layouts import Layout, text_layout
from gptjax.errors import UserError, nearest

Names = Callable[[], Collection[str]]


def read_layout(attributes: Mapping[str, Any], names: Names) -> Layout:
    """The layout of the model that a config.json describes.

    Args:
      names: the folder's tensors, asked for where config.json does not say what there is.

    Raises:
      UserError: for a family or an attribute that is not known.
    """
    return text_layout(*read_attributes(attributes))


def write_layout(config: Any, model_type: str) -> tuple[dict[str, Any], Layout]:
    """config.json and layout of a model; an empty `model_type` is the first that fits.

    Raises:
      UserError: where the family lacks something that the config has.
    """
    if model_type and model_type not in FAMILIES:
        raise UserError(f"model_type={model_type!r} is not known; {nearest(model_type, FAMILIES)}")
    family = FAMILIES[model_type] if model_type else family_of(config)
    return write_attributes(family, config), text_layout(family, config)
