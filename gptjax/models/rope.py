"""Rotary positions (RoPE) with a config's settings."""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


def rotate(
    config: "ModelConfig", x_BTNH: jax.Array, positions_BT: jax.Array | None = None
) -> jax.Array:
    """Queries or keys rotated by their positions, as the config has it.

    Args:
      positions_BT: None: 0…T−1. Scalings that depend on the length of the text take T for it.
    """
    T, width = x_BTNH.shape[1], int(x_BTNH.shape[-1] * config.rope_fraction)
    options: dict[str, Any] = {"base": config.rope_base}
    if config.rope_scaling != "none" or width != x_BTNH.shape[-1]:
        scaling = ops.RopeScaling(
            factor=config.rope_factor,
            trained_len=config.rope_trained_len or config.seq_len,
            slow=config.rope_slow,
            fast=config.rope_fast,
            attention_factor=config.rope_attention_factor,
            mscale=config.rope_mscale,
            mscale_all_dim=config.rope_mscale_all_dim,
            short_factors=config.rope_short_factors,
            long_factors=config.rope_long_factors,
        )
        find = ops.ROPE_SCALINGS[config.rope_scaling]
        turns_C, factor = find(width, config.rope_base, T, scaling)
        options = {"frequencies_C": jnp.asarray(turns_C, jnp.float32), "factor": factor}
    interleaved = config.rope_layout == "interleaved"
    positions = ops.in_order(jnp.arange(T)) if positions_BT is None else positions_BT
    return ops.rotary(x_BTNH, positions, interleaved=interleaved, **options)
