"""config.json to ModelConfig and back, by a family's table.

The rule: what the family's class in `transformers` reads for the logits is honoured, or passed
where it changes nothing, or refused; what the class does not read is left out. Written attributes
are read again, and a setting that does not come back is refused.
"""

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from gptjax.convert import biases, rotary
from gptjax.convert.families import FAMILIES, INSTEAD, REQUIRED, Attribute, Family
from gptjax.convert.layer_types import KINDS, LAYERS, pattern_of
from gptjax.errors import UserError
from gptjax.fields import flat, make, nested, replaced
from gptjax.models import ModelConfig, validate

LOADING = {"quantization_config": None, "per_layer_config": None, "transformers_weights": None}
"""What `transformers` reads for every class, and what it must be."""

# Settings that change no logit, or only in training, or only where they are computed.
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
    "dropout.embedding",
    "dropout.attention",
    "dropout.residual",
}
# Settings of canonical() and of `_RESOLVED`; `rotary.OURS` and `layer_types` name the others.
ATTENTION_SCALE, EXPERT_WIDTH, VALUE_DIM = (
    "attention_scale",
    "experts.width",
    "mixer.latent.value_dim",
)
SSM_RANK, KV_RANK, SPARSE_BLOCK = "mixer.ssm.rank", "mixer.latent.kv_rank", "mixer.sparse.block"
MAX_COUNT = 1 << 32
TOLERANCE = 1e-9
"""Relative, of a setting that is written and read again."""


def read_attributes(attributes: Mapping[str, Any]) -> tuple[Family, ModelConfig]:
    """The family and the config that a config.json describes.

    Raises:
      UserError: for an unknown family, and for a value that is not built.
    """
    family = _family(attributes)
    return family, read_family(family, attributes)


def read_family(family: Family, attributes: Mapping[str, Any]) -> ModelConfig:
    """The config that attributes describe, of a model of `family`.

    Raises:
      UserError: for a value that is not built.
    """
    left = dict(attributes)
    for alias, name in family.aliases.items():  # of `transformers`' attribute_map: the alias wins
        if alias in left:
            left[name] = left.pop(alias)
    left = _prepared(family, left)
    check_rest(left, {**LOADING, **family.only}, family.model_type)
    fields: dict[str, Any] = dict(family.always)
    for row in family.attributes:
        fields[row.ours] = read_row(row, left.pop(row.theirs, row.default), family.model_type)
    for name in ("depth", "seq_len"):
        _check_count(name, fields[name])
    if family.rope:
        fields |= rotary.read(left, family.rope, fields["seq_len"])
    if family.biases:
        fields |= biases.read(left, family.biases)
    fields |= LAYERS[family.layers][0](left, fields["depth"])
    config = canonical(make(ModelConfig, nested(fields), "model"))
    validate(config)
    return config


def _prepared(family: Family, attributes: dict[str, Any]) -> dict[str, Any]:
    try:
        return family.prepare(attributes)
    except (TypeError, ArithmeticError, AttributeError) as error:
        raise UserError(
            f"config.json has values that no {family.model_type} has ({error}); correct them"
        ) from error


def _check_count(name: str, value: Any) -> None:
    if type(value) is not int or not 0 < value < MAX_COUNT:
        raise UserError(f"config.json has {value!r} for model.{name}; give a whole number")


def check_rest(left: Mapping[str, Any], only: Mapping[str, Any], model_type: str) -> None:
    """Refuse an attribute of `only` that has another value.

    Raises:
      UserError: naming the first by the alphabet.
    """
    if left.get("quantization_config"):
        raise UserError(
            "config.json has quantization_config: the weights are quantized, and only float32, "
            "bfloat16 and float16 ones are read; fetch such a release of the model"
        )
    for name, wanted in sorted(only.items()):
        if name in left and not same_value(left[name], wanted):
            raise UserError(
                f"config.json has {name}={left[name]!r}, and gptjax builds a {model_type} with "
                f"{wanted!r} only; convert another model"
            )


def same_value(given: Any, wanted: Any) -> bool:
    """Whether an attribute has the wanted value; null and an empty list are false."""
    return given == wanted or (not given and not wanted and not isinstance(given, int | float))


def write_attributes(family: Family, config: ModelConfig) -> dict[str, Any]:
    """The config.json of `config` as a model of `family`.

    Raises:
      UserError: naming a setting that the family does not have.
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
        attributes |= rotary.write(config, family.rope)
    if family.biases:
        attributes |= biases.write(config, family.biases)
    attributes = family.finish(attributes | LAYERS[family.layers][1](config))
    _check_same(family, config, read_family(family, attributes))
    return attributes


def family_of(config: ModelConfig) -> Family:
    """The first family that can express the config.

    Raises:
      UserError: where none can, with what the nearest lacks.
    """
    reasons = []
    for family in FAMILIES.values():
        try:
            write_attributes(family, config)
            return family
        except UserError as error:
            reasons.append(str(error))
    raise UserError(
        "no family of `transformers` is this model; name one as model_type to see what it lacks. "
        f"{reasons[0]}"
    )


def canonical(config: ModelConfig) -> ModelConfig:
    """The config with defaults that mean another setting written out, and unread ones at theirs."""
    resolved = {
        "num_kv_heads": config.kv_heads,
        "head_dim": config.head_width,
        "mlp_width": config.hidden_width,
        ATTENTION_SCALE: 0.0 if _is_plain_scale(config) else flat(config)[ATTENTION_SCALE],
        EXPERT_WIDTH: _unless(flat(config)[EXPERT_WIDTH], config.hidden_width),
        SSM_RANK: _unless(flat(config)[SSM_RANK], -(-config.width // 16)),
        VALUE_DIM: _unless(flat(config)[VALUE_DIM], config.head_width),
        "layer_pattern": _shortest(config.layer_pattern, config.depth),
    }
    return rotary.canonical(replaced(config, resolved | biases.canonical(config)))


def _shortest(pattern: tuple[str, ...], depth: int) -> tuple[str, ...]:
    """The shortest pattern with the same layers."""
    return pattern_of([pattern[i % len(pattern)] for i in range(depth)]) if pattern else pattern


def _unless(value: int, default: int) -> int:
    """0, which means the default, where the value is just that."""
    return 0 if value == default else value


def _is_plain_scale(config: ModelConfig) -> bool:
    """Whether scores are multiplied by 1/√head_dim, which has a fast path of its own.

    Latent attention has another default.
    """
    ours = flat(config)
    plain = config.head_width**-0.5
    return not ours[KV_RANK] and math.isclose(ours[ATTENTION_SCALE], plain, rel_tol=1e-9)


_RESOLVED: dict[str, Callable[[ModelConfig], Any]] = {
    "embedding_scale": lambda config: config.embedding_scale or math.sqrt(config.width),
    SPARSE_BLOCK: lambda config: config.block_tokens,
    ATTENTION_SCALE: lambda config: flat(config)[ATTENTION_SCALE] or config.head_width**-0.5,
    VALUE_DIM: lambda config: config.value_width,
    EXPERT_WIDTH: lambda config: config.expert_hidden_width,
}


def _family(attributes: Mapping[str, Any]) -> Family:
    name = attributes.get("model_type")
    for attribute, instead in INSTEAD.get(name, {}).items() if isinstance(name, str) else ():
        name = instead if attribute in attributes else name
    if not isinstance(name, str) or name not in FAMILIES:
        raise UserError(
            f"config.json has model_type={name!r}, which gptjax does not read; "
            f"it reads {', '.join(FAMILIES)}"
        )
    return FAMILIES[name]


def read_row(row: Attribute, value: Any, model_type: str) -> Any:
    """Our value of an attribute of theirs; another one is not suggested, it is another function."""
    if value is REQUIRED:
        raise UserError(f"config.json has no {row.theirs}, which a {model_type} needs; add it")
    if isinstance(row.read, Mapping):
        if not isinstance(value, str | bool | None) or value not in row.read:
            raise UserError(
                f"config.json has {row.theirs}={value!r}, which is not built for {model_type}; "
                f"built are {', '.join(map(str, row.read))}"
            )
        return row.read[value]
    try:
        return row.read(value)
    except (TypeError, ValueError, ArithmeticError) as error:
        raise UserError(
            f"config.json has {row.theirs}={value!r}, which is no value for a {model_type} "
            f"({error}); correct it"
        ) from error


def write_row(row: Attribute, value: Any) -> Any:
    """Their value of a setting of ours."""
    if isinstance(row.read, Mapping):
        return next(theirs for theirs, ours in row.read.items() if ours == value)
    return row.write(value)


def _check_expressible(family: Family, config: ModelConfig) -> None:
    """Whether every setting is in the table or has the family's value."""
    known = {*KINDS.values(), *family.always.get("layer_pattern", ())}
    for kind in sorted(set(config.layer_pattern) - known):
        raise UserError(
            f"model.layer_pattern={config.layer_pattern} cannot be written as model_type="
            f"{family.model_type}, which has no {kind} layers; it has {', '.join(sorted(known))}"
        )
    ours = flat(config)
    later = {"layer_pattern", "seq_len", "mlp_width", *family.unused}
    for name in family.always.keys() - later - {row.ours for row in family.attributes}:
        if ours[name] != family.always[name]:
            raise _cannot(family, name, ours[name], family.always[name])
    for row in family.attributes:
        value = ours[row.ours]
        if isinstance(row.read, Mapping) and value not in row.read.values():
            raise UserError(
                f"model.{row.ours}={value} cannot be written as model_type={family.model_type}; "
                f"it has {', '.join(map(str, dict.fromkeys(row.read.values())))}"
            )


def _check_same(family: Family, config: ModelConfig, read: ModelConfig) -> None:
    """Refuse a setting that the written attributes do not say, or say otherwise."""
    free = {*NOT_THE_FUNCTION, *family.unused}
    wanted, found = flat(config), flat(read)
    for name, value in wanted.items():
        if name not in free and not _equal(value, found[name]):
            raise _cannot(family, name, value, found[name])


def _equal(one: Any, two: Any) -> bool:
    if isinstance(one, float) and isinstance(two, int | float):
        return math.isclose(one, two, rel_tol=TOLERANCE)
    return one == two


def _cannot(family: Family, name: str, value: Any, theirs: Any) -> UserError:
    return UserError(
        f"model.{name}={value} cannot be written as model_type={family.model_type}, which has "
        f"{theirs}; name another family"
    )
