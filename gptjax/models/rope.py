"""Rotary positions (RoPE) with a config's settings."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax import ops
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class RopeConfig:
    """Rotary positions, of model.positions=rotary."""

    base: float = setting(10_000.0, "base of the rotary wavelengths", above=1.0, was="rope_base")
    layout: str = setting(
        "half",
        "pairs that are rotated together are half a head apart (Llama) or neighbours (Command R)",
        choices=("half", "interleaved"),
        was="rope_layout",
    )
    fraction: float = setting(
        1.0,
        "share of a head's columns that are rotated (GPT-NeoX: 0.25)",
        above=0.0,
        maximum=1.0,
        was="rope_fraction",
    )
    scaling: str = setting(
        "none",
        "frequencies for texts beyond the trained length",
        choices=ops.ROPE_SCALINGS,
        was="rope_scaling",
    )
    factor: float = setting(
        1.0, "the longest text over the trained length", minimum=1.0, was="rope_factor"
    )
    trained_len: int = setting(
        0, "positions before the extension; 0: model.seq_len", minimum=0, was="rope_trained_len"
    )
    slow: float = setting(
        1.0,
        "llama3: low_freq_factor; yarn: beta_slow, rotations below which a pair is interpolated",
        was="rope_slow",
    )
    fast: float = setting(
        32.0,
        "llama3: high_freq_factor (4 there); yarn: beta_fast, rotations above which one is kept",
        was="rope_fast",
    )
    attention_factor: float = setting(
        0.0,
        "yarn, longrope: multiplies rotated columns; 0: the paper's",
        minimum=0.0,
        was="rope_attention_factor",
    )
    mscale: float = setting(
        0.0, "yarn: DeepSeek's mscale; 0: not used", minimum=0.0, was="rope_mscale"
    )
    mscale_all_dim: float = setting(
        0.0, "yarn: DeepSeek's mscale_all_dim", minimum=0.0, was="rope_mscale_all_dim"
    )
    short_factors: tuple[float, ...] = setting(
        (),
        "longrope: divisor of each pair up to the trained length",
        above=0.0,
        was="rope_short_factors",
    )
    long_factors: tuple[float, ...] = setting(
        (), "longrope: divisor of each pair beyond it", above=0.0, was="rope_long_factors"
    )


def rotate(
    config: "ModelConfig",
    x_BTNH: jax.Array,
    positions_BT: jax.Array | None = None,
    length: int | None = None,
) -> jax.Array:
    """Queries or keys rotated by their positions, as the config has it.

    Args:
      positions_BT: None: 0…T−1.
      length: tokens of the text, for scalings that depend on it; None: T.
    """
    T, width = x_BTNH.shape[1], int(x_BTNH.shape[-1] * config.rope.fraction)
    options: dict[str, Any] = {"base": config.rope.base}
    if config.rope.scaling != "none" or width != x_BTNH.shape[-1]:
        turns_C, factor = _frequencies(config, width, length or T)
        options = {"frequencies_C": jnp.asarray(turns_C, jnp.float32), "factor": factor}
    interleaved = config.rope.layout == "interleaved"
    positions = ops.in_order(jnp.arange(T)) if positions_BT is None else positions_BT
    return ops.rotary(x_BTNH, positions, interleaved=interleaved, **options)


def depends_on_length(config: "ModelConfig", length: int) -> bool:
    """Whether a text of so many tokens is rotated otherwise than a short one."""
    width = max(2, config.rotary_width - config.rotary_width % 2)
    if config.mixer.latent.kv_rank:
        width = config.mixer.latent.rope_dim
    (short_C, one), (long_C, two) = (_frequencies(config, width, T) for T in (1, length))
    return one != two or not np.array_equal(short_C, long_C)


def _frequencies(config: "ModelConfig", width: int, length: int) -> tuple[np.ndarray, float]:
    """(angles of one step [C], attention factor) of a text of so many tokens."""
    rope = config.rope
    scaling = ops.RopeScaling(
        factor=rope.factor,
        trained_len=rope.trained_len or config.seq_len,
        slow=rope.slow,
        fast=rope.fast,
        attention_factor=rope.attention_factor,
        mscale=rope.mscale,
        mscale_all_dim=rope.mscale_all_dim,
        short_factors=rope.short_factors,
        long_factors=rope.long_factors,
    )
    return ops.ROPE_SCALINGS[rope.scaling](width, rope.base, length, scaling)
