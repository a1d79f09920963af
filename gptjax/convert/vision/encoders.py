"""Vision encoders (ViT, CLIP) as tables: attribute to field, tensor to parameter.

Names and defaults are those of the `transformers` configuration classes of the same model type.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from gptjax import models
from gptjax.convert.config_json import LOADING, check_rest, read_row, write_row
from gptjax.convert.families import PLAIN, Attribute, Tensor, linear, norm
from gptjax.convert.tensor_map import Names, Source, Sources, TensorMap, by_path, shapes_of
from gptjax.errors import UserError, nearest
from gptjax.fields import make
from gptjax.models import VisionConfig

NOT_THE_FUNCTION = {"init_scale", "compute_dtype"}
NOT_WEIGHTS = (r"position_ids$",)


@dataclasses.dataclass(frozen=True)
class VisionFamily:
    """How one model type of vision transformers is written.

    Attributes:
      architecture: the class that loads it without a head; classifier: the one with.
      prefix: of every tensor but the head, in a folder of `classifier`.
      attributes: what varies.
      always: the fields of VisionConfig that make the family.
      only: attributes that must have these values, which are also their defaults.
      tensors: outside and inside the layers.
      aliases: of names that other folders have.
    """

    model_type: str
    architecture: str
    attributes: tuple[Attribute, ...]
    always: Mapping[str, Any]
    tensors: tuple[Tensor, ...]
    only: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    classifier: str = ""
    prefix: str = ""
    aliases: tuple[tuple[str, str], ...] = ()


def side(value: Any) -> int:
    """The side of a square, which some files give twice.

    Raises:
      UserError: for another rectangle.
    """
    if isinstance(value, int):
        return value
    if len(set(value)) != 1:
        raise UserError(
            f"config.json has a size of {value}, and only squares are built; convert another model"
        )
    return int(value[0])


def _attributes(*, patch: int, act: str, eps: float) -> tuple[Attribute, ...]:
    return (
        Attribute("image_size", "image_size", 224, side),
        Attribute("patch_size", "patch_size", patch, side),
        Attribute("num_channels", "channels", 3),
        Attribute("hidden_size", "width", 768),
        Attribute("num_hidden_layers", "depth", 12),
        Attribute("num_attention_heads", "num_heads", 12),
        Attribute("intermediate_size", "mlp_width", 3072),
        Attribute("hidden_act", "mlp", act, PLAIN),
        Attribute("layer_norm_eps", "norm_eps", eps),
    )


def _layer(
    at: str, attention: tuple[str, str, str, str], norms: tuple[str, str], mlp: tuple[str, str]
) -> tuple[Tensor, ...]:
    query, key, value, out = attention
    return (
        *norm(f"{at}.{norms[0]}", "attention_norm", bias=True),
        *linear(f"{at}.{query}", "attention/query", bias=True),
        *linear(f"{at}.{key}", "attention/key", bias=True),
        *linear(f"{at}.{value}", "attention/value", bias=True),
        *linear(f"{at}.{out}", "attention/out", bias=True, inputs=2),
        *norm(f"{at}.{norms[1]}", "mlp_norm", bias=True),
        *linear(f"{at}.{mlp[0]}", "mlp/up", bias=True),
        *linear(f"{at}.{mlp[1]}", "mlp/down", bias=True),
    )


PATCH = ("patch",)  # this row's `patch` is the config's patch_size
HEAD = linear("classifier", "head", bias=True)
VIT = VisionFamily(
    "vit",
    "ViTModel",
    _attributes(patch=16, act="gelu", eps=1e-12),
    {"first_norm": False, "patch_bias": True},
    (
        Tensor("embeddings.cls_token", ("class_token",), False, leading=2),
        Tensor("embeddings.position_embeddings", ("positions",), False, leading=1),
        Tensor("embeddings.patch_embeddings.projection.weight", PATCH),
        Tensor("embeddings.patch_embeddings.projection.bias", ("patch_bias",), False, 0),
        *norm("layernorm", "final_norm", bias=True),
        *linear("pooler.dense", "pooler", bias=True),
        *_layer(
            "encoder.layer.{i}",
            (
                "attention.attention.query",
                "attention.attention.key",
                "attention.attention.value",
                "attention.output.dense",
            ),
            ("layernorm_before", "layernorm_after"),
            ("intermediate.dense", "output.dense"),
        ),
    ),
    only={"qkv_bias": True, "pooler_act": "tanh"},
    classifier="ViTForImageClassification",
    prefix="vit.",
    aliases=((r"^vit\.", ""),),
)
CLIP = VisionFamily(
    "clip_vision_model",
    "CLIPVisionModel",
    _attributes(patch=32, act="quick_gelu", eps=1e-5),
    {"first_norm": True, "patch_bias": False, "pooler": False, "num_classes": 0},
    (
        Tensor("embeddings.class_embedding", ("class_token",), False),
        Tensor("embeddings.position_embedding.weight", ("positions",), False),
        Tensor("embeddings.patch_embedding.weight", PATCH),
        *norm("pre_layrnorm", "first_norm", bias=True),
        *norm("post_layernorm", "final_norm", bias=True),
        *_layer(
            "encoder.layers.{i}",
            ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj"),
            ("layer_norm1", "layer_norm2"),
            ("mlp.fc1", "mlp.fc2"),
        ),
    ),
    aliases=((r"^vision_model\.", ""),),
)
VISION_FAMILIES = {family.model_type: family for family in (VIT, CLIP)}
# CLIP's folders hold both of its encoders; the one of images is read.
CLIP_TEXT = (r"^text_model\.", r"^(text|visual)_projection\.", r"^logit_scale$")


def read_vision(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    """The tensor_map of a vision transformer; its head and pooler are there if their tensors are.

    Raises:
      UserError: for an unknown family, and for any attribute that the table does not know.
    """
    known = set(names())
    head, pooler = ("classifier.weight" in known), ("pooler.dense.weight" in known)
    family, config = read_vision_attributes(attributes)
    if head:
        config = dataclasses.replace(config, num_classes=_classes(attributes))
    config = dataclasses.replace(config, pooler=pooler)
    return vision_map(family, config)


def read_clip(attributes: Mapping[str, Any], names: Names) -> TensorMap:
    """The tensor_map of the image encoder in a folder with both of CLIP's.

    Raises:
      UserError: for any attribute that is not known, but those of the text encoder.
    """
    check_rest(attributes, LOADING, "clip")
    older, vision = attributes.get("vision_config_dict"), attributes.get("vision_config")
    vision = older or vision or {}  # where files have both, the older name wins
    _, config = read_vision_attributes({"model_type": CLIP.model_type, **vision})
    tensor_map = vision_map(CLIP, config)
    return dataclasses.replace(tensor_map, ignored=(*tensor_map.ignored, *CLIP_TEXT))


def read_vision_attributes(attributes: Mapping[str, Any]) -> tuple[VisionFamily, VisionConfig]:
    """The family and the config that attributes describe, without a head and a pooler.

    Raises:
      UserError: for an unknown family, and for any attribute that the table does not know.
    """
    name = attributes.get("model_type")
    if name not in VISION_FAMILIES:
        raise UserError(
            f"config.json has model_type={name!r} for its vision, which gptjax does not read; "
            f"it reads {', '.join(VISION_FAMILIES)}"
        )
    family = VISION_FAMILIES[name]
    check_rest(attributes, {**LOADING, **family.only}, family.model_type)
    fields = dict(family.always)
    for row in family.attributes:
        value = attributes.get(row.theirs, row.default)
        fields[row.ours] = read_row(row, value, family.model_type)
    return family, make(VisionConfig, fields, "vision")


def write_vision(config: VisionConfig, model_type: str) -> tuple[dict[str, Any], TensorMap]:
    """config.json and tensor_map of a vision transformer.

    Raises:
      UserError: naming the first field that the family does not have.
    """
    family = _family(config, model_type)
    if config.num_classes and config.pooler:
        raise UserError(
            f"pooler=True and num_classes={config.num_classes} cannot be written together as "
            f"model_type={family.model_type}; leave one out"
        )
    attributes = write_vision_attributes(family, config)
    if config.num_classes:
        attributes["architectures"] = [family.classifier]
        attributes["id2label"] = {str(i): f"LABEL_{i}" for i in range(config.num_classes)}
        attributes["label2id"] = {f"LABEL_{i}": i for i in range(config.num_classes)}
    return attributes, vision_map(family, config)


def write_vision_attributes(family: VisionFamily, config: VisionConfig) -> dict[str, Any]:
    """The attributes of everything but the head."""
    resolved = dataclasses.replace(config, mlp_width=config.blocks.hidden_width)
    return {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **family.only,
        **{row.theirs: write_row(row, getattr(resolved, row.ours)) for row in family.attributes},
    }


def vision_map(family: VisionFamily, config: VisionConfig) -> TensorMap:
    """The tensor_map of a vision transformer in a folder of its own."""
    shapes = shapes_of(models.init_vision, config)
    prefix = family.prefix if config.num_classes else ""
    sources = vision_sources(family, config, by_path(shapes), prefix)
    aliases = () if prefix else family.aliases
    return TensorMap(family.model_type, config, shapes, sources, aliases, {}, NOT_WEIGHTS)


def vision_sources(
    family: VisionFamily, config: VisionConfig, paths: Mapping[str, Any], prefix: str
) -> Sources:
    """What fills each leaf, `prefix` before every name but the head's."""
    rows = {leaf: row for row in family.tensors for leaf in row.leaves}
    heads = {leaf: row for row in HEAD for leaf in row.leaves}
    sources: Sources = {}
    for path in paths:
        inner = path.removeprefix("blocks/")
        if inner in heads:
            sources[path] = [Source((), heads[inner].name, heads[inner], (path,))]
            continue
        row, layers = rows[inner], range(config.depth) if inner != path else ()
        if row.leaves == PATCH:
            row = dataclasses.replace(row, patch=config.patch_size)
        name = prefix + row.name
        sources[path] = [
            Source((i,), name.replace("{i}", str(i)), row, (path,)) for i in layers
        ] or [Source((), name, row, (path,))]
    return sources


def fitting(config: VisionConfig) -> VisionFamily:
    """The first family that can express the config.

    Raises:
      UserError: where none can, with what the nearest lacks.
    """
    return _family(config, "")


def _family(config: VisionConfig, model_type: str) -> VisionFamily:
    if model_type and model_type not in VISION_FAMILIES:
        known = nearest(model_type, VISION_FAMILIES)
        raise UserError(f"model_type={model_type!r} is not known for a vision transformer; {known}")
    reasons = []
    for family in VISION_FAMILIES.values():
        lacks = _lacks(family, config)
        if model_type in ("", family.model_type):
            if not lacks:
                return family
            reasons.append(lacks[0])
    raise UserError(reasons[0])


def _lacks(family: VisionFamily, config: VisionConfig) -> list[str]:
    """Sentences on what the family does not have."""
    reasons = [
        f"vision.{name}={getattr(config, name)} cannot be written as model_type="
        f"{family.model_type}, which has {value}; name another family"
        for name, value in family.always.items()
        if getattr(config, name) != value
    ]
    for row in family.attributes:
        value = getattr(config, row.ours)
        if isinstance(row.read, Mapping) and value not in row.read.values():
            reasons.append(
                f"vision.{row.ours}={value} cannot be written as model_type={family.model_type}; "
                f"it can say {', '.join(map(str, row.read.values()))}"
            )
    return reasons


def _classes(attributes: Mapping[str, Any]) -> int:
    """Outputs of the head; `transformers` has two where nothing is said."""
    labels = attributes.get("id2label")
    return 2 if labels is None else len(labels)
