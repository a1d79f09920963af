"""Layer kinds in config.json: which layers are local, by how a family says it.

LAYERS has a reader and a writer for each way.
"""

from collections.abc import Callable
from typing import Any

from gptjax.errors import UserError
from gptjax.models import ModelConfig


def pattern_of(kinds: list[str]) -> tuple[str, ...]:
    """The shortest pattern that repeats to `kinds`."""
    for period in range(1, len(kinds) + 1):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return tuple(kinds[:period])
    return ("global",)


KINDS = {"full_attention": "global", "sliding_attention": "local"}


def _read_layers(
    attributes: dict[str, Any], depth: int, window: int | None, kinds: list[str]
) -> dict[str, Any]:
    named = attributes.pop("layer_types", None)
    if named is not None:
        known = isinstance(named, list) and all(name in tuple(KINDS) for name in named)
        if not known or len(named) != depth:
            raise UserError(
                f"config.json has layer_types={named!r}; {', '.join(KINDS)} are built, one "
                f"for each of {depth} layers"
            )
        kinds = [KINDS[name] for name in named]
    return _windowed(kinds, window)


def _windowed(kinds: list[str], window: int | None) -> dict[str, Any]:
    pattern = pattern_of(kinds)
    if "local" in pattern and not window:
        raise UserError(
            f"config.json has sliding_window={window!r} and layers with sliding attention; give "
            "a number of tokens, or full_attention in layer_types"
        )
    return {"layer_pattern": pattern, "window": window if "local" in pattern else 0}


def _read_global(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    return {"layer_pattern": ("global",), "window": 0}


def _read_every(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Phi-3, Mixtral: all layers are local where there is a window."""
    window = attributes.pop("sliding_window", None)
    return _windowed(["global" if window is None else "local"], window)


def _read_every_4096(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Mistral: a window of 4,096 where nothing is said."""
    return _read_every({"sliding_window": 4096, **attributes}, depth)


def _read_named(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Ministral: by `layer_types`; without it all are local, within 4,096 where nothing is said."""
    window = attributes.pop("sliding_window", 4096)
    kinds = ["global" if window is None else "local"] * depth
    return _read_layers(attributes, depth, window, kinds)


def _read_alternate(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    kinds = [("local", "global")[i % 2] for i in range(depth)]
    return _read_layers(attributes, depth, attributes.pop("sliding_window", 4096), kinds)


def _read_above(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Qwen2: local from max_window_layers on, if use_sliding_window."""
    first = attributes.pop("max_window_layers", 28)
    window = attributes.pop("sliding_window", 4096)
    used = attributes.pop("use_sliding_window", False)
    window = window if used else None
    kinds = ["local" if window is not None and i >= first else "global" for i in range(depth)]
    return _read_layers(attributes, depth, window, kinds)


def _read_dense_every(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Phi-3-small: every n-th layer is dense, and none where nothing is said."""
    every = attributes.pop("dense_attention_every_n_layers", 2) or depth + 1
    return {"layer_pattern": pattern_of(_dense_every(every, depth))}


def _dense_every(every: int, depth: int) -> list[str]:
    return ["blocksparse" if (i + 1) % every else "global" for i in range(depth)]


def _read_none(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    return {}


def _names(config: ModelConfig) -> list[str]:
    theirs = {ours: name for name, ours in KINDS.items()}
    return [theirs[layer.mixer] for layer in config.layers_of_depth]


def _write_global(config: ModelConfig) -> dict[str, Any]:
    return {}


def _write_every(config: ModelConfig) -> dict[str, Any]:
    if len(set(config.layer_pattern)) > 1:
        raise UserError(
            f"model.layer_pattern={config.layer_pattern} cannot be written for a family whose "
            "layers are alike; name another family"
        )
    return {"sliding_window": config.window or None}


def _write_alternate(config: ModelConfig) -> dict[str, Any]:
    return {"sliding_window": config.window or config.seq_len, "layer_types": _names(config)}


def _write_above(config: ModelConfig) -> dict[str, Any]:
    kinds = [layer.mixer for layer in config.layers_of_depth]
    first = kinds.index("local") if "local" in kinds else config.depth
    return {
        "use_sliding_window": bool(config.window),
        "sliding_window": config.window or None,
        "max_window_layers": first,
        "layer_types": _names(config),
    }


def _write_dense_every(config: ModelConfig) -> dict[str, Any]:
    kinds = [layer.mixer for layer in config.layers_of_depth]
    every = kinds.index("global") + 1 if "global" in kinds else None
    if kinds != _dense_every(every or config.depth + 1, config.depth):
        raise UserError(
            f"model.layer_pattern={config.layer_pattern} cannot be written for a family whose "
            "every n-th layer is global and all others are blocksparse; name another family"
        )
    return {"dense_attention_every_n_layers": every}


LAYERS: dict[str, tuple[Callable, Callable]] = {
    "none": (_read_none, _write_global),
    "global": (_read_global, _write_global),
    "every": (_read_every, _write_every),
    "every_4096": (_read_every_4096, _write_every),
    "named": (_read_named, _write_alternate),
    "alternate": (_read_alternate, _write_alternate),
    "above": (_read_above, _write_above),
    "dense_every": (_read_dense_every, _write_dense_every),
}
