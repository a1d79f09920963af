"""Shared parts of sparse attention, whose kinds leave pairs of tokens out: checks and costs."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
from gptjax.fields import setting

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class SparseConfig:
    """Blocks of the strided, fixed, linformer and blocksparse layers."""

    block: int = setting(
        0,
        "strided: the stride; fixed, linformer, blocksparse: tokens of a block; 0: √seq_len, "
        "upwards",
        minimum=0,
        was="sparse_block",
    )
    summary: int = setting(
        4,
        "fixed: last tokens of a block, and linformer: summaries of it, that later blocks see",
        minimum=1,
        was="sparse_summary",
    )


SCORE_COPIES = 4.0
"""Copies of the scores in training, over those of dense attention."""

NO_SCORES: dict[str, Any] = {"attention_soft_cap": 0.0, "attention_sinks": False}
"""Settings that need a softmax over scores, with the values that stand for none."""


def held(config: "ModelConfig", keys: float) -> float:
    """Scores that training holds of one token that sees so many keys."""
    return 5.0 * config.num_heads * (SCORE_COPIES * keys)


def summarised_keys(seq_len: int, block: int, summary: float) -> float:
    """Keys of a query that sees one block, and `summary` keys of each block; at most all.

    Child et al. (2019): `fixed`, and `strided` with a summary of one.

    >>> summarised_keys(1024, 32, 1), summarised_keys(16, 12, 6)
    (64.0, 16.0)
    """
    return min(float(seq_len), block + summary * seq_len / block)


def summarised_tokens(config: "ModelConfig", context: int) -> int:
    """Tokens of the cache where later blocks see a summary of a finished one."""
    finished, begun = divmod(context, config.block_tokens)
    return config.mixer.sparse.summary * finished + begun


def own_block(position_B1: jax.Array, block: int) -> jax.Array:
    """Positions in a ring of one block [B, block]; negative where the token's block is not yet."""
    places_BS = ops.ring_positions(position_B1[:, 0] + 1, block)
    return jnp.where(places_BS // block == position_B1 // block, places_BS, -1)


def check_latent(config: "ModelConfig", kind: str) -> None:
    """No kind that leaves pairs out has latent keys and values."""
    if config.mixer.latent.kv_rank:
        raise UserError(
            f"model.mixer.latent.kv_rank={config.mixer.latent.kv_rank} has no {kind} layers; set "
            "model.mixer.latent.kv_rank=0, or "
            "model.layer_pattern=('global',)"
        )


def check_without(config: "ModelConfig", kind: str, without: dict[str, Any]) -> None:
    """Refuse settings that a kind does not have."""
    check_latent(config, kind)
    for name, wanted in without.items():
        if getattr(config, name) != wanted:
            raise UserError(
                f"model.{name}={getattr(config, name)} is not built for the {kind} layers of "
                f"model.layer_pattern; set model.{name}={wanted}"
            )


def check_distances(config: "ModelConfig", kind: str) -> None:
    """Refuse ALiBi where keys have no distance."""
    if config.positions == "alibi":
        raise UserError(
            f"model.positions=alibi has no distances in the {kind} layers of "
            "model.layer_pattern; set model.positions=rotary"
        )


def check_summary(config: "ModelConfig") -> None:
    """Refuse a summary longer than its block."""
    block = config.block_tokens
    if config.mixer.sparse.summary > block:
        raise UserError(
            f"model.mixer.sparse.summary={config.mixer.sparse.summary} is more than a block of "
            f"{block} tokens; "
            "give less, or set model.mixer.sparse.block"
        )
