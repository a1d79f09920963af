"""Llama 3.2 Vision (`mllama` of `transformers`): its config.json and its tensor map.

The text part's attributes and tensors are those of a Llama, so they come from its table.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from gptjax import models
from gptjax.convert.config_json import (
    LOADING,
    canonical,
    check_rest,
    read_family,
    read_row,
    write_attributes,
    write_row,
)
from gptjax.convert.families import LLAMA, Attribute, Rope, Tensor
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
from gptjax.convert.vision.encoders import side
from gptjax.errors import UserError
from gptjax.models import CrossText, TileConfig, TiledVision

MODEL_TYPE, ARCHITECTURE = "mllama", "MllamaForConditionalGeneration"
EXTRA_TOKENS = 8  # rows of the embedding beyond its vocabulary, in `transformers`

_TEXT_DEFAULTS = {
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 40,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
}
_CROSS_LAYERS = (3, 8, 13, 18, 23, 28, 33, 38)
TEXT = dataclasses.replace(
    LLAMA,
    model_type="mllama_text_model",
    architecture="MllamaForCausalLM",
    prefix="model.language_model.",
    attributes=tuple(
        dataclasses.replace(row, default=_TEXT_DEFAULTS.get(row.theirs, row.default))
        for row in LLAMA.attributes
        if row.ours not in ("tied_head", "head_dim")
    ),
    always={**LLAMA.always, "use_bias": False, "tied_head": False},
    biases=None,
    only={"tie_word_embeddings": False},
    rope=Rope(base=5e5),
)


_PLAIN = TileConfig()
VISION = (
    Attribute("image_size", "image_size", _PLAIN.image_size, side),
    Attribute("patch_size", "patch_size", _PLAIN.patch_size, side),
    Attribute("num_channels", "channels", _PLAIN.channels),
    Attribute("hidden_size", "width", _PLAIN.width),
    Attribute("num_hidden_layers", "depth", _PLAIN.depth),
    Attribute("num_global_layers", "global_depth", _PLAIN.global_depth),
    Attribute("attention_heads", "num_heads", _PLAIN.num_heads),
    Attribute("intermediate_size", "mlp_width", _PLAIN.blocks.hidden_width),
    Attribute("norm_eps", "norm_eps", _PLAIN.norm_eps),
    Attribute("max_num_tiles", "max_tiles", _PLAIN.max_tiles),
    Attribute("intermediate_layers_indices", "read_layers", _PLAIN.read_layers, tuple, list),
    Attribute(
        "supported_aspect_ratios",
        "ratios",
        _PLAIN.ratios,
        lambda pairs: tuple(map(tuple, pairs)),
        lambda pairs: list(map(list, pairs)),
    ),
)
_VISION_ONLY = {**LOADING, "hidden_act": "gelu"}


# To today's names, from those of the released files.
ALIASES = (
    (r"^language_model\.lm_head", "lm_head"),
    (r"^language_model\.model", "model.language_model"),
    (r"^(vision_model|multi_modal_projector)\.", r"model.\1."),
)


def read_mllama(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    """The tensor_map of the model that a config.json describes.

    Raises:
      UserError: for an attribute that is not known, or not built.
    """
    left = dict(attributes)
    text, vision = left.pop("text_config", None) or {}, left.pop("vision_config", None) or {}
    token = left.pop("image_token_index", left.pop("image_token_id", 128256))
    check_rest(left, {**LOADING, "tie_word_embeddings": False}, "mllama")
    config = TiledVision(_read_text(text), _read_vision(vision), token)
    models.count_tiled(config)  # checks it
    return map_of(config)


def write_mllama(config: TiledVision, model_type: str) -> tuple[dict[str, Any], TensorMap]:
    """config.json and tensor_map of a model.

    Args:
      model_type: "mllama" or empty.

    Raises:
      UserError: naming what `transformers` does not have.
    """
    if model_type not in ("", MODEL_TYPE):
        raise UserError(
            f"model_type={model_type!r} is no decoder that sees tiles of images; it is written as "
            f"{MODEL_TYPE}"
        )
    return _attributes(config), map_of(config)


def _attributes(config: TiledVision) -> dict[str, Any]:
    language, vision = config.language, config.vision
    wanted = {"extra_tokens": EXTRA_TOKENS, "unshown": "all"}
    for name, value in wanted.items():
        if getattr(language, name) != value:
            raise UserError(
                f"{name}={getattr(language, name)!r} cannot be written as model_type={MODEL_TYPE}, "
                f"which has {value!r}; set it, if another function is meant"
            )
    text = write_attributes(TEXT, language.text)
    text |= {
        "num_hidden_layers": language.depth,
        "cross_attention_layers": list(language.cross_layers),
    }
    for name in ("architectures", "bos_token_id"):
        del text[name]
    resolved = _resolved(vision)
    tower = {row.theirs: write_row(row, getattr(resolved, row.ours)) for row in VISION}
    tower |= {
        "model_type": "mllama_vision_model",
        "hidden_act": "gelu",
        "vision_output_dim": vision.feature_width,
    }
    return {
        "architectures": [ARCHITECTURE],
        "model_type": MODEL_TYPE,
        "image_token_index": config.image_token,
        "text_config": text,
        "vision_config": tower,
    }


def map_of(config: TiledVision) -> TensorMap:
    """Where the parameters of the model are."""
    shapes = shapes_of(models.init_tiled, config)
    paths = by_path(shapes)
    kernel, bias = (f"model.multi_modal_projector.{name}" for name in ("weight", "bias"))
    sources = {
        **_text_sources(config.language),
        **_stack(
            "language/cross", f"{TEXT.prefix}layers.{{i}}.", _CROSS, config.language.cross_layers
        ),
        **_tower_sources(config.vision),
        "projector/kernel": [_source(kernel, "projector/kernel", inputs=1)],
        "projector/bias": [_source(bias, "projector/bias")],
    }
    return TensorMap(
        MODEL_TYPE,
        config,
        shapes,
        {path: sources[path] for path in paths},
        ALIASES,
        ignored=TEXT.ignored,
    )


def _read_text(attributes: Mapping[str, Any]) -> CrossText:
    left = dict(attributes)
    cross = left.pop("cross_attention_layers", None)
    cross = _CROSS_LAYERS if cross is None else tuple(cross)
    depth = left.pop("num_hidden_layers", _TEXT_DEFAULTS["num_hidden_layers"])
    text = read_family(TEXT, {**left, "num_hidden_layers": depth - len(cross)})
    return CrossText(text, cross, EXTRA_TOKENS)


def _read_vision(attributes: Mapping[str, Any]) -> TileConfig:
    left = dict(attributes)
    if "num_attention_heads" in left:  # another name of the same
        left["attention_heads"] = left.pop("num_attention_heads")
    fields: dict[str, Any] = {}
    for row in VISION:
        value = left.pop(row.theirs, None)
        value = row.default if value is None else value
        fields[row.ours] = read_row(row, value, "mllama_vision_model")
    config = TileConfig(**fields)
    wanted = {**_VISION_ONLY, "vision_output_dim": config.feature_width}
    check_rest(left, wanted, "mllama_vision_model")
    return _resolved(config)


def _resolved(vision: TileConfig) -> TileConfig:
    """The tower with its default that means another field written out."""
    return dataclasses.replace(vision, mlp_width=vision.blocks.hidden_width)


def resolved(config: TiledVision) -> TiledVision:
    """The model with all defaults that mean another field written out."""
    text = canonical(dataclasses.replace(config.language.text, preset=""))
    language = dataclasses.replace(config.language, text=text)
    return dataclasses.replace(config, language=language, vision=_resolved(config.vision))


def _source(
    name: str, path: str, at: tuple[int, ...] = (), *, inputs: int = 0, **how: Any
) -> Source:
    """A tensor that is one leaf, or one layer of it; without `inputs` it is no matrix."""
    return Source(at, name, Tensor(name, (path,), bool(inputs), inputs or 1, **how), (path,))


def _text_sources(config: CrossText) -> Sources:
    """Those of a Llama, with the numbers of its layers among all; the embedding has more rows."""
    ordinary = [i for i in range(config.depth) if i not in config.cross_layers]
    sources = text_map(TEXT, config.text).sources
    renumbered = {
        path: [_renumbered(source, ordinary) for source in some] for path, some in sources.items()
    }
    both = ("language/text/embed/tokens", "language/extra_tokens")
    name = f"{TEXT.prefix}embed_tokens.weight"
    embedding = [Source((), name, Tensor(name, both, False, below=True), both)]
    return {**inside(renumbered, "language/text/", ""), **dict.fromkeys(both, embedding)}


def _renumbered(source: Source, numbers: list[int]) -> Source:
    """A tensor of our j-th layer, where theirs is numbers[j]."""
    if not source.at:
        return source
    (j,) = source.at
    name = source.name.replace(f"layers.{j}.", f"layers.{numbers[j]}.", 1)
    return dataclasses.replace(source, name=name)


def _stack(
    at: str, theirs: str, rows: Mapping[str, tuple[str, int]], numbers: Iterable[int]
) -> Sources:
    """A stack of layers with these numbers there."""
    return {
        f"{at}/{leaf}": [
            _source(
                theirs.replace("{i}", str(i)) + name,
                f"{at}/{leaf}",
                (j,),
                inputs=inputs,
                leading=int(leaf.endswith("_gate")),
            )
            for j, i in enumerate(numbers)
        ]
        for leaf, (name, inputs) in rows.items()
    }


def _tower_sources(config: TileConfig) -> Sources:
    at = "model.vision_model"
    patch = f"{at}.patch_embedding.weight"
    gates = dict.fromkeys(("attention_gate", "mlp_gate"))
    local = {leaf: row for leaf, row in _VISION_LAYER.items() if leaf not in gates}
    return {
        "vision/patch": [_source(patch, "vision/patch", patch=config.patch_size)],
        **{
            f"vision/{leaf}": [
                _source(
                    f"{at}.{name}",
                    f"vision/{leaf}",
                    leading=int(leaf.endswith("gate")),
                    flat=leaf.endswith(("table", "tile_positions")),
                )
            ]
            for leaf, name in _VISION.items()
        },
        **_stack("vision/local", f"{at}.transformer.layers.{{i}}.", local, range(config.depth)),
        **_stack(
            "vision/global",
            f"{at}.global_transformer.layers.{{i}}.",
            _VISION_LAYER,
            range(config.global_depth),
        ),
    }


_ATTENTION = {
    "query": ("q_proj", 1),
    "key": ("k_proj", 1),
    "value": ("v_proj", 1),
    "out": ("o_proj", 2),
}
_NORMS = {"attention_norm": "input_layernorm", "mlp_norm": "post_attention_layernorm"}
# Our leaf: (their tensor, our leading axes that are inputs; 0: no matrix).
_CROSS: dict[str, tuple[str, int]] = {
    **{f"attention/{k}": (f"cross_attn.{name}.weight", n) for k, (name, n) in _ATTENTION.items()},
    "attention/query_norm_scale": ("cross_attn.q_norm.weight", 0),
    "attention/key_norm_scale": ("cross_attn.k_norm.weight", 0),
    "attention_gate": ("cross_attn_attn_gate", 0),
    "mlp_gate": ("cross_attn_mlp_gate", 0),
    **{f"{k}/scale": (f"{name}.weight", 0) for k, name in _NORMS.items()},
    **{f"mlp/{part}": (f"mlp.{part}_proj.weight", 1) for part in ("gate", "up", "down")},
}
_VISION_LAYER: dict[str, tuple[str, int]] = {
    **{f"attention/{k}": (f"self_attn.{name}.weight", n) for k, (name, n) in _ATTENTION.items()},
    "attention_gate": ("gate_attn", 0),
    "mlp_gate": ("gate_ffn", 0),
    **{f"{k}/scale": (f"{name}.weight", 0) for k, name in _NORMS.items()},
    **{f"{k}/bias": (f"{name}.bias", 0) for k, name in _NORMS.items()},
    "mlp/up": ("mlp.fc1.weight", 1),
    "mlp/up_bias": ("mlp.fc1.bias", 0),
    "mlp/down": ("mlp.fc2.weight", 1),
    "mlp/down_bias": ("mlp.fc2.bias", 0),
}
_VISION = {
    "class_token": "class_embedding",
    "positions": "gated_positional_embedding.embedding",
    "tile_positions": "gated_positional_embedding.tile_embedding.weight",
    "position_gate": "gated_positional_embedding.gate",
    "first_tiles/table": "pre_tile_positional_embedding.embedding.weight",
    "first_tiles/gate": "pre_tile_positional_embedding.gate",
    "last_tiles/table": "post_tile_positional_embedding.embedding.weight",
    "last_tiles/gate": "post_tile_positional_embedding.gate",
    "first_norm/scale": "layernorm_pre.weight",
    "first_norm/bias": "layernorm_pre.bias",
    "last_norm/scale": "layernorm_post.weight",
    "last_norm/bias": "layernorm_post.bias",
}
