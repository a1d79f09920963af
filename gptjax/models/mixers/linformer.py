"""Linformer attention (Wang et al., 2020), by blocks.

Its projections over all positions would show every query the future; here each block has summaries
that later blocks see.
"""

from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.mixers import kernels, pattern
from gptjax.models.mixers.attention import (
    attention_flops,
    attention_params,
    key_bytes,
    key_cache,
)
from gptjax.models.mixers.cache import Kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.mixers.one_by_one import Arrays, OneByOneAttention, beside
from gptjax.models.parameters import parameter

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class LinformerAttention(OneByOneAttention):
    """Attention to one's own block and to learned summaries of earlier ones."""

    def own_arrays(self, x_BTD: jax.Array, info: TokenInfo) -> dict[str, Any]:
        """The projections of a block's keys and values to their summaries."""
        cfg = self.config
        shape, axes = (cfg.block_tokens, cfg.mixer.sparse.summary), ("positions", "rank")
        init = nn.initializers.normal(cfg.block_tokens**-0.5)
        names = ("key_summary", "value_summary")
        return {f"{name}_aR": parameter(self, name, shape, axes, init) for name in names}

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By blocks."""
        return ops.linformer_causal_attention(q, k, v, **options)

    def fill(
        self,
        cache: Arrays,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> Arrays:
        """The last block, and the summaries of all."""
        block, R = arrays["key_summary_aR"].shape
        kept = super().fill(cache, q, k, v, info, arrays)
        for name, x_BTKH, w_aR in (
            ("k", k, arrays["key_summary_aR"]),
            ("v", v, arrays["value_summary_aR"]),
        ):
            blocks = cache[f"summary_{name}"].shape[2] // R
            room = ((0, 0), (0, max(0, blocks * block - x_BTKH.shape[1])), (0, 0), (0, 0))
            x_BTKH = jnp.pad(x_BTKH, room)[:, : blocks * block]
            x_BnaKH = x_BTKH.reshape(x_BTKH.shape[0], blocks, block, *x_BTKH.shape[2:])
            s_BKnRH = jnp.einsum("bnakh,ar->bknrh", x_BnaKH, w_aR.astype(x_BTKH.dtype))
            kept[f"summary_{name}"] = s_BKnRH.reshape(cache[f"summary_{name}"].shape)
        return kept

    def attend_one(
        self, cache: Arrays, token: Arrays, position_B1: jax.Array, arrays: dict[str, Any]
    ) -> tuple[jax.Array, Arrays]:
        """By the block of the token, and by the summaries of those before."""
        rest, after = dict(arrays), {}
        projections = {"k": rest.pop("key_summary_aR"), "v": rest.pop("value_summary_aR")}
        block, R = projections["k"].shape
        own_B1 = position_B1 // block
        is_end_B1 = (position_B1 % block == block - 1) & (position_B1 >= 0)
        slots_BR = jnp.where(is_end_B1, own_B1 * R + jnp.arange(R), -1)
        for name, w_aR in projections.items():
            after[name] = ops.write_ring(cache[name], token[name], position_B1)
            s_BRKH = jnp.einsum("bkah,ar->brkh", after[name], w_aR.astype(after[name].dtype))
            after[f"summary_{name}"] = ops.write_ring(cache[f"summary_{name}"], s_BRKH, slots_BR)
        slots = jnp.arange(after["summary_k"].shape[2])
        ends_BS = jnp.where(slots // R < own_B1, slots // R * block + block - 1, -1)
        o_B1NH = ops.cached_attention(
            token["q"],
            beside(after, "k", "summary_k"),
            beside(after, "v", "summary_v"),
            position_B1,
            jnp.concatenate([pattern.own_block(position_B1, block), ends_BS], axis=1),
            **rest,
            **kernels.options(self.config),
        )
        return o_B1NH, after


def _keys(config: "ModelConfig") -> float:
    return pattern.summarised_keys(config.seq_len, config.block_tokens, config.mixer.sparse.summary)


def _flops(config: "ModelConfig") -> float:
    summaries = 2.0 * 2 * config.mixer.sparse.summary * config.kv_heads * config.head_width
    return attention_flops(config, _keys(config)) + summaries


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    block = config.block_tokens
    summaries = -(-tokens // block) * config.mixer.sparse.summary
    kept = {f"summary_{name}": x for name, x in key_cache(config, summaries).items()}
    return key_cache(config, block) | kept


def _check(config: "ModelConfig") -> None:
    pattern.check_latent(config, "linformer")
    pattern.check_distances(config, "linformer")
    pattern.check_summary(config)


register(
    "linformer",
    Mixer(
        module=LinformerAttention,
        params=lambda config: (
            attention_params(config) + 2 * config.block_tokens * config.mixer.sparse.summary
        ),
        flops=_flops,
        cache_bytes=lambda config, context: key_bytes(
            config, pattern.summarised_tokens(config, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=_check,
        cache=_cache,
        rewinds=False,
        name="linformer_attention",
    ),
)
