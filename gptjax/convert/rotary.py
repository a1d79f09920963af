"""Rotary attributes of config.json: their base, share and scaling, as `transformers` reads them.

Everything that this file knows of ModelConfig's rotary settings stands in OURS.
"""

from collections.abc import Mapping
from typing import Any

from gptjax.convert.families.table import Rope
from gptjax.errors import UserError
from gptjax.fields import flat, replaced
from gptjax.models import ModelConfig

BASE, FRACTION, SCALING = "rope.base", "rope.fraction", "rope.scaling"
FACTOR, TRAINED_LEN = "rope.factor", "rope.trained_len"
ORIGINAL = "original_max_position_embeddings"
OURS = {
    "factor": FACTOR,
    ORIGINAL: TRAINED_LEN,
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
"""Our setting of each name in `rope_scaling`, and in `rope_parameters`, which succeeded it."""

KINDS: dict[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", ORIGINAL),
    "yarn": (
        "factor",
        ORIGINAL,
        "beta_slow",
        "beta_fast",
        "attention_factor",
        "mscale",
        "mscale_all_dim",
    ),
    "longrope": ("factor", ORIGINAL, "short_factor", "long_factor", "attention_factor"),
    "llama3": ("factor", ORIGINAL, "low_freq_factor", "high_freq_factor"),
}
"""The names that each `rope_type` reads."""
REQUIRED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "longrope": ("short_factor", "long_factor"),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "yarn": ("factor",),
}
OWN_LENGTH = ("yarn", "longrope", "llama3")
"""Kinds that read the trained length; dynamic takes max_position_embeddings for it."""
FROM_LENGTHS = ("yarn", "longrope")
"""Kinds whose factor is the ratio of both lengths where it is null."""


def read(left: dict[str, Any], rope: Rope, seq_len: int) -> dict[str, Any]:
    """Our settings, taken out of `left`.

    `rope_scaling` goes before `rope_parameters`; in both, their own base and share go before those
    outside, and the original length outside before theirs.

    Raises:
      UserError: for a kind that is not built, and where `transformers` would stop.
    """
    scaling, parameters = left.pop("rope_scaling", None), left.pop("rope_parameters", None)
    given = dict(scaling or parameters or {})
    outer = left.pop(ORIGINAL, rope.original)
    kind: Any = given.get("rope_type", given.get("type", "default"))
    kind = rope.renamed.get(str(kind), kind)
    _check_kind(kind, given, rope)
    base = given.get("rope_theta", left.get(rope.base_name, rope.base))
    share = given.get("partial_rotary_factor", left.get(rope.fraction_name, rope.fraction))
    ignored = kind == "default" and not rope.partial
    if not (ignored or rope.partial) and share not in (None, 1):
        raise UserError(
            f"config.json has partial_rotary_factor={share!r} with rope_type={kind}, which no such "
            "model of `transformers` runs; remove one of them"
        )
    share = 1.0 if ignored or share is None else share
    fields = {BASE: base, FRACTION: share, SCALING: "none" if kind == "default" else kind}
    if kind == "default":
        return fields
    return fields | _scaled(kind, given, outer, seq_len, rope)


def _check_kind(kind: Any, given: Mapping[str, Any], rope: Rope) -> None:
    built = [name for name in KINDS if name in rope.kinds]
    if kind not in built:
        raise UserError(
            f"config.json has rope_type={kind!r}, which is not built for this family; "
            f"built are {', '.join(built)}"
        )
    for name, value in given.items():
        if isinstance(value, Mapping):
            raise UserError(
                f"config.json has {name}={value!r} in its rotary settings, and one setting for all "
                "layers is built; convert another model"
            )
    if kind == "yarn" and not given.get("truncate", True):
        raise UserError(
            "config.json has truncate=false in its rotary settings, which is not built; convert "
            "another model"
        )


def _scaled(
    kind: str, given: Mapping[str, Any], outer: int | None, seq_len: int, rope: Rope
) -> dict[str, Any]:
    for name in REQUIRED[kind]:
        if name not in given or (given[name] is None and kind not in FROM_LENGTHS):
            raise UserError(f"config.json has rope_type={kind} without {name}; add it")
    length = seq_len
    if kind in OWN_LENGTH:
        length = given.get(ORIGINAL, seq_len) if outer is None else outer
    if not isinstance(length, int) or length < 1:
        raise UserError(f"config.json has {ORIGINAL}={length!r}; give a number of tokens")
    factor = given.get("factor")
    if factor is None:
        factor = max(seq_len / length, 1.0)
    found = {FACTOR: factor, TRAINED_LEN: length}
    for name in (*KINDS[kind], *rope.also):
        value = given.get(name)
        if name in ("factor", ORIGINAL) or value is None:
            continue
        if name == "attention_factor" and not value:
            raise UserError(f"config.json has attention_factor={value!r}; give one above 0")
        if value or name not in ("beta_fast", "beta_slow"):  # 0 is the default for these
            found[OURS[name]] = tuple(value) if isinstance(value, list) else value
    return found


def write(config: ModelConfig, rope: Rope) -> dict[str, Any]:
    """The attributes of a canonical config; `seq_len` is theirs to override for dynamic scaling.

    Raises:
      UserError: for a kind that the family does not have.
    """
    ours = flat(config)
    kind = ours[SCALING]
    if kind != "none" and kind not in rope.kinds:
        raise UserError(
            f"model.{SCALING}={kind} cannot be written for this family; it has "
            f"{', '.join(rope.kinds)}"
        )
    written: dict[str, Any] = {rope.base_name: ours[BASE], "rope_scaling": None}
    if ours[FRACTION] != rope.fraction and rope.partial:
        written[rope.fraction_name] = ours[FRACTION]
    if kind == "none":
        return written
    scaling: dict[str, Any] = {"rope_type": kind}
    for name in dict.fromkeys((*KINDS[kind], *rope.also)):
        value = ours[OURS[name]]
        if value or name in ("factor", ORIGINAL):
            scaling[name] = list(value) if isinstance(value, tuple) else value
    if kind == "dynamic":
        written["max_position_embeddings"] = scaling.pop(ORIGINAL)
    if kind == "longrope":
        written[ORIGINAL] = ours[TRAINED_LEN]
    return written | {"rope_scaling": scaling}


def canonical(config: ModelConfig) -> ModelConfig:
    """The config with defaults at the rotary settings that its kind does not read."""
    ours, plain = flat(config), flat(ModelConfig())
    rotary = ours["positions"] == "rotary"
    kind = "default" if ours[SCALING] == "none" else ours[SCALING]
    reads = {OURS[name] for name in KINDS.get(kind, ("factor",))} if rotary else set()
    if ours["mixer.latent.kv_rank"] and kind != "default":  # DeepSeek's scale of scores
        reads |= {OURS["mscale_all_dim"], FACTOR}
    changes = {name: plain[name] for name in OURS.values() if name not in reads}
    if not rotary:
        changes |= {
            name: value
            for name, value in plain.items()
            if name in (BASE, FRACTION, SCALING, "rope.layout")
        }
    if TRAINED_LEN in reads:
        changes[TRAINED_LEN] = ours[TRAINED_LEN] or ours["seq_len"]
    return replaced(config, changes)
