"""config.json to ModelConfig and back by a family's table; unknown attributes are refused."""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from gptjax.convert.families import FAMILIES, REQUIRED, Attribute, Family
from gptjax.errors import UserError, nearest
from gptjax.fields import flat, leaves, replaced
from gptjax.models import ModelConfig, validate

# Attributes that say nothing about what the network computes: training, files, generation.
IGNORED = {
    "_name_or_path",
    "_attn_implementation_autoset",
    "_commit_hash",
    "architectures",
    "attention_dropout",
    "attn_impl",
    "attn_pdrop",
    "attn_uses_sequence_id",
    "auto_map",
    "bos_token_id",
    "cache_implementation",
    "chunk_size_feed_forward",
    "classifier_dropout",
    "dtype",
    "embd_pdrop",
    "emb_pdrop",
    "embed_pdrop",
    "eos_token_id",
    "gradient_checkpointing",
    "hidden_dropout",
    "id2label",
    "init_device",
    "initializer_range",
    "is_decoder",
    "is_encoder_decoder",
    "label2id",
    "model_type",
    "n_ctx",
    "n_special",
    "output_attentions",
    "output_hidden_states",
    "output_router_logits",
    "pad_token_id",
    "predict_special_tokens",
    "problem_type",
    "reorder_and_upcast_attn",
    "resid_pdrop",
    "return_dict",
    "router_aux_loss_coef",
    "router_jitter_noise",
    "sep_token_id",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "task_specific_params",
    "tokenizer_class",
    "torch_dtype",
    "torchscript",
    "transformers_version",
    "use_cache",
    "verbose",
}
# Fields that change no logit, or only in training, or only where they are computed.
NOT_THE_FUNCTION = {
    "family",
    "preset",
    "init_scale",
    "hidden_init_scale",
    "layers",
    "compute_dtype",
    "remat",
    "seq_len",
    "attention_impl",
    "mixer.ssm.scan",
    "experts.capacity_factor",
    "experts.balance_loss",
    "experts.router_z_loss",
    "experts.importance_loss",
    "experts.load_loss",
    "experts.balance_over",
}
ROPE_FIELDS = frozenset(
    leaf.key
    for leaf in leaves(ModelConfig)
    if leaf.key.startswith("rope.") or leaf.key == "mixer.latent.rope_dim"
)
LAYER_FIELDS = frozenset(("layer_pattern", "window"))


def read_attributes(attributes: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and the config that a config.json describes.

    Raises:
      UserError: for an unknown family, and for any attribute that the table does not know.
    """
    family = _family(attributes)
    return family, read_family(family, attributes)


def read_family(family: Family, attributes: Mapping[str, Any]) -> ModelConfig:
    """The config that attributes describe, of a model of `family`.

    Raises:
      UserError: for any attribute that the table does not know.
    """
    unsaid = IGNORED.union(family.silent)
    left = {name: value for name, value in attributes.items() if name not in unsaid}
    left = family.prepare(left)
    fields: dict[str, Any] = dict(family.always)
    for row in family.attributes:
        fields[row.ours] = read_row(row, left.pop(row.theirs, row.default), family.model_type)
    if family.rope:
        fields |= _read_rope(left, family, fields["seq_len"])
    fields |= LAYERS[family.layers][0](left, fields["depth"])
    check_rest(left, family.only, family.model_type)
    config = canonical(replaced(ModelConfig(), fields))
    validate(config)
    return config


def check_rest(left: Mapping[str, Any], only: Mapping[str, Any], model_type: str) -> None:
    """Refuse attributes that no table has read: those of `only` with another value, and all others.

    Raises:
      UserError: naming the first by the alphabet.
    """
    for name, given in sorted(left.items()):
        if name not in only:
            raise UserError(
                f"config.json has {name}={given!r}, which is not known for model_type="
                f"{model_type}; remove it if it does not change the logits"
            )
        if not same_value(given, only[name]):
            raise UserError(
                f"config.json has {name}={given!r}, and gptjax builds a {model_type} with "
                f"{only[name]!r} only; convert another model"
            )


def write_attributes(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The config.json of `config` as a model of `family`.

    Raises:
      UserError: naming the first field that the family does not have.
    """
    config = canonical(config)
    _check_expressible(family, config)
    attributes: dict[str, Any] = {
        "architectures": [family.architecture],
        "model_type": family.model_type,
        **dict.fromkeys(("bos_token_id", "eos_token_id", "pad_token_id")),
        **family.only,
    }
    for row in family.attributes:
        found = _RESOLVED.get(row.ours, operator.attrgetter(row.ours))
        attributes[row.theirs] = write_row(row, found(config))
    if family.rope:
        attributes |= _write_rope(family, config)
    return family.finish(attributes | LAYERS[family.layers][1](config))


def family_of(config: ModelConfig) -> Family:
    """The first family that can express the config.

    Raises:
      UserError: where none can, with what the nearest lacks.
    """
    reasons = []
    for family in FAMILIES.values():
        try:
            _check_expressible(family, canonical(config))
            return family
        except UserError as error:
            reasons.append(str(error))
    raise UserError(
        "no family of `transformers` is this model; name one as model_type to see what it lacks. "
        f"{reasons[0]}"
    )


def canonical(config: ModelConfig) -> ModelConfig:
    """The config with defaults that mean another field written out."""
    trained_len = config.rope.trained_len or config.seq_len
    return replaced(
        config,
        {
            "num_kv_heads": config.kv_heads,
            "head_dim": config.head_width,
            "mlp_width": config.hidden_width,
            "rope.trained_len": trained_len * _scaled(config),
            "attention_scale": 0.0 if _is_plain_scale(config) else config.attention_scale,
            "experts.width": _unless(config.experts.width, config.hidden_width),
            "mixer.ssm.rank": _unless(config.mixer.ssm.rank, -(-config.width // 16)),
            "mixer.latent.value_dim": _unless(config.mixer.latent.value_dim, config.head_width),
        },
    )


def _unless(value: int, default: int) -> int:
    """0, which means the default, where the value is just that."""
    return 0 if value == default else value


def _is_plain_scale(config: ModelConfig) -> bool:
    """Whether scores are multiplied by 1/√head_dim, which has a fast path of its own."""
    return math.isclose(config.attention_scale, config.head_width**-0.5, rel_tol=1e-9)


_RESOLVED: dict[str, Callable[[ModelConfig], Any]] = {
    "embedding_scale": lambda config: config.embedding_scale or math.sqrt(config.width),
    "mixer.sparse.block": lambda config: config.block_tokens,
    "attention_scale": lambda config: config.attention_scale or config.head_width**-0.5,
    "mixer.latent.value_dim": lambda config: config.value_width,
    "experts.width": lambda config: config.expert_hidden_width,
}


def _scaled(config: ModelConfig) -> bool:
    return config.rope.scaling not in ("none", "linear", "ntk")


def _family(attributes: Mapping[str, Any]) -> Family:
    name = attributes.get("model_type")
    if name not in FAMILIES:
        raise UserError(
            f"config.json has model_type={name!r}, which gptjax does not read; "
            f"{nearest(name, FAMILIES)}"
        )
    return FAMILIES[name]


def read_row(row: Attribute, value: Any, model_type: str) -> Any:
    """Our value of an attribute of theirs."""
    if value is REQUIRED:
        raise UserError(f"config.json has no {row.theirs}, which a {model_type} needs; add it")
    if not isinstance(row.read, Mapping):
        return row.read(value)
    if value not in row.read:
        raise UserError(
            f"config.json has {row.theirs}={value!r}, which is not built for "
            f"{model_type}; {nearest(value, row.read)}"
        )
    return row.read[value]


def write_row(row: Attribute, value: Any) -> Any:
    """Their value of a field of ours."""
    if isinstance(row.read, Mapping):
        return next(theirs for theirs, ours in row.read.items() if ours == value)
    return row.write(value)


def same_value(given: Any, wanted: Any) -> bool:
    """Whether an attribute has the wanted value; what is ignored may differ."""
    if isinstance(wanted, Mapping) and isinstance(given, Mapping):
        left = {name: value for name, value in given.items() if name not in IGNORED}
        return all(name in wanted and wanted[name] == value for name, value in left.items())
    return given == wanted


def _check_expressible(family: Family, config: ModelConfig) -> None:
    """Whether every field is in the table or has the family's value."""
    known = {*_KINDS.values(), *family.always.get("layer_pattern", ())}
    for kind in sorted(set(config.layer_pattern) - known):
        raise UserError(
            f"model.layer_pattern={config.layer_pattern} cannot be written as model_type="
            f"{family.model_type}, which has no {kind} layers; {nearest(kind, known)}"
        )
    free = {row.ours for row in family.attributes} | NOT_THE_FUNCTION
    free |= ROPE_FIELDS if family.rope else set()
    free |= LAYER_FIELDS if family.layers not in ("global", "none") else set()
    free |= set(family.unused)
    wanted = flat(
        canonical(
            replaced(
                ModelConfig(
                    vocab_size=config.vocab_size,
                    width=config.width,
                    depth=config.depth,
                    num_heads=config.num_heads,
                    head_dim=config.head_dim if "head_dim" in free else 0,
                ),
                {k: v for k, v in family.always.items() if k not in free},
            )
        )
    )
    for name, value in wanted.items():
        given = operator.attrgetter(name)(config)
        if name not in free and given != value:
            raise UserError(
                f"model.{name}={given} cannot be written as model_type="
                f"{family.model_type}, which has {value}; name another family"
            )
    for row in family.attributes:
        value = operator.attrgetter(row.ours)(config)
        if isinstance(row.read, Mapping) and value not in row.read.values():
            raise UserError(
                f"model.{row.ours}={value} cannot be written as model_type={family.model_type}; "
                f"{nearest(value, row.read.values())}"
            )
    LAYERS[family.layers][1](config)
    if family.rope and config.rope.scaling == "ntk":
        raise UserError(
            "model.rope.scaling=ntk has no name in `transformers`; set model.rope.base to "
            "base·factor^(d/(d−2)) and model.rope.scaling=none, the same"
        )


# Layers: (read, write) by how a family says which of them are local.


def _pattern(kinds: list[str]) -> tuple[str, ...]:
    """The shortest pattern that repeats to `kinds`."""
    for period in range(1, len(kinds) + 1):
        if all(kind == kinds[i % period] for i, kind in enumerate(kinds)):
            return tuple(kinds[:period])
    return ("global",)


_KINDS = {"full_attention": "global", "sliding_attention": "local"}


def _read_layers(
    attributes: dict[str, Any], depth: int, window: int | None, kinds: list[str]
) -> dict[str, Any]:
    named = attributes.pop("layer_types", None)
    if named is not None:
        unknown = sorted(set(named) - set(_KINDS))
        if unknown:
            raise UserError(
                f"config.json has layer_types with {unknown[0]!r}; {nearest(unknown[0], _KINDS)}"
            )
        kinds = [_KINDS[name] for name in named]
    pattern = _pattern(kinds) if window else ("global",)
    return {"layer_pattern": pattern, "window": window if "local" in pattern else 0}


def _read_global(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    return _read_layers(attributes, depth, None, ["global"] * depth)


def _read_every(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    return _read_layers(attributes, depth, attributes.pop("sliding_window", None), ["local"])


def _read_alternate(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    kinds = [("local", "global")[i % 2] for i in range(depth)]
    return _read_layers(attributes, depth, attributes.pop("sliding_window", 4096), kinds)


def _read_above(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Qwen2: local from max_window_layers on, if use_sliding_window."""
    first = attributes.pop("max_window_layers", 28)
    window = attributes.pop("sliding_window", 4096)
    used = attributes.pop("use_sliding_window", False)
    kinds = ["local" if i >= first else "global" for i in range(depth)]
    return _read_layers(attributes, depth, window if used else None, kinds)


def _read_dense_every(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    """Phi-3-small: every n-th layer is dense, and none where nothing is said."""
    every = attributes.pop("dense_attention_every_n_layers", 2) or depth + 1
    return {"layer_pattern": _pattern(_dense_every(every, depth))}


def _dense_every(every: int, depth: int) -> list[str]:
    return ["blocksparse" if (i + 1) % every else "global" for i in range(depth)]


def _read_none(attributes: dict[str, Any], depth: int) -> dict[str, Any]:
    return {}


def _names(config: ModelConfig) -> list[str]:
    theirs = {ours: name for name, ours in _KINDS.items()}
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
    "alternate": (_read_alternate, _write_alternate),
    "above": (_read_above, _write_above),
    "dense_every": (_read_dense_every, _write_dense_every),
}

# Rotary scaling: names in `rope_scaling` (and, later, `rope_parameters`) by kind.
_ROPE_KINDS = {
    "default": "none",
    "linear": "linear",
    "dynamic": "dynamic",
    "yarn": "yarn",
    "longrope": "longrope",
    "su": "longrope",
    "llama3": "llama3",
}
_ROPE_NAMES = {
    "factor": "rope.factor",
    "original_max_position_embeddings": "rope.trained_len",
    "low_freq_factor": "rope.slow",
    "high_freq_factor": "rope.fast",
    "beta_slow": "rope.slow",
    "beta_fast": "rope.fast",
    "attention_factor": "rope.attention_factor",
    "mscale": "rope.mscale",
    "mscale_all_dim": "rope.mscale_all_dim",
    "short_factor": "rope.short_factors",
    "long_factor": "rope.long_factors",
}
_ROPE_WRITTEN = {
    "none": (),
    "linear": ("factor",),
    "dynamic": ("factor", "original_max_position_embeddings"),
    "yarn": (
        "factor",
        "original_max_position_embeddings",
        "beta_slow",
        "beta_fast",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    ),
    "longrope": (
        "factor",
        "original_max_position_embeddings",
        "short_factor",
        "long_factor",
        "attention_factor",
    ),
    "llama3": ("factor", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor"),
}


def _read_rope(attributes: dict[str, Any], family: Family, seq_len: int) -> dict[str, Any]:
    given = dict(attributes.pop("rope_scaling", None) or {})
    given |= attributes.pop("rope_parameters", None) or {}
    kind = given.pop("rope_type", given.pop("type", "default"))
    given.pop("type", None)
    if kind not in _ROPE_KINDS:
        raise UserError(f"config.json has rope_type={kind!r}; {nearest(kind, _ROPE_KINDS)}")
    fields: dict[str, Any] = {"rope.scaling": _ROPE_KINDS[kind]}
    found = [family.rope_base, family.rope_fraction]
    for names in (("rope_theta", "partial_rotary_factor"), family.rope_names):
        for slot, name in enumerate(names):
            outside = attributes.pop(name, None)
            found[slot] = given.pop(name, None) or outside or found[slot]
    fields["rope.base"], fields["rope.fraction"] = map(float, found)
    outer = attributes.pop("original_max_position_embeddings", None)
    if outer and _ROPE_KINDS[kind] == "longrope":
        given.setdefault("original_max_position_embeddings", outer)
    if not given.pop("truncate", True):
        raise UserError("config.json has rope truncate=false, which is not built; convert another")
    for name, value in given.items():
        if name not in _ROPE_NAMES:
            raise UserError(
                f"config.json has {name}={value!r} in its rope_scaling, which is not known; "
                f"{nearest(name, _ROPE_NAMES)}"
            )
        if value is not None:
            fields[_ROPE_NAMES[name]] = tuple(value) if isinstance(value, list) else value
    if fields["rope.scaling"] == "none":
        fields = {name: fields[name] for name in ("rope.base", "rope.fraction", "rope.scaling")}
    elif _ROPE_KINDS[kind] != "linear":
        fields.setdefault("rope.trained_len", seq_len)
        fields.setdefault("rope.factor", seq_len / fields["rope.trained_len"])
    return fields


def _write_rope(family: Family, config: ModelConfig) -> dict[str, Any]:
    rope: dict[str, Any] = {}
    kind = config.rope.scaling
    if kind != "none":
        rope = {"rope_type": kind}
        for name in _ROPE_WRITTEN[kind]:
            value = operator.attrgetter(_ROPE_NAMES[name])(config)
            if value or name in ("factor", "original_max_position_embeddings"):
                rope[name] = list(value) if isinstance(value, tuple) else value
    base, fraction = family.rope_names
    written: dict[str, Any] = {base: config.rope.base, "rope_scaling": rope or None}
    if config.rope.fraction != family.rope_fraction:
        written[fraction] = config.rope.fraction
    if kind == "longrope":
        written["original_max_position_embeddings"] = config.rope.trained_len
    return written
