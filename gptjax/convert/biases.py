"""Biases in config.json: which matrices have them, by a family's switches."""

from typing import Any

from gptjax.convert.families.table import Biases
from gptjax.errors import UserError
from gptjax.fields import leaves
from gptjax.models import ModelConfig

(PLACES,) = (
    tuple(leaf.field.metadata["choices"])
    for leaf in leaves(ModelConfig)
    if leaf.key == "bias_places"
)


def read(attributes: dict[str, Any], biases: Biases) -> dict[str, Any]:
    """Our settings, taken out of `attributes`.

    Raises:
      UserError: for a switch that is neither on nor off.
    """
    places = set(biases.always)
    for name, (default, switched) in biases.switches.items():
        value = attributes.pop(name, default)
        if not isinstance(value, bool | None):
            raise UserError(f"config.json has {name}={value!r}; give true or false")
        places |= set(switched) if value else set()
    return _settings(places)


def write(config: ModelConfig, biases: Biases) -> dict[str, Any]:
    """Their switches; one whose places have biases in part alone does not come back."""
    return {
        name: all(config.has_bias(place) for place in switched)
        for name, (_, switched) in biases.switches.items()
    }


def canonical(config: ModelConfig) -> dict[str, Any]:
    """Our settings with the places in order, without those that no tensor comes from."""
    places = {place for place in config.bias_places if config.use_bias}
    return _settings(places - ({"norm"} if config.norm == "rmsnorm" else set()))


def _settings(places: set[str]) -> dict[str, Any]:
    found = tuple(place for place in PLACES if place in places)
    return {"use_bias": bool(found), "bias_places": found or ModelConfig().bias_places}
