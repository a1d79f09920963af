"""Fixed attention (Child et al., 2019, "Generating Long Sequences with Sparse Transformers").

A query sees its own block, and the last tokens of each earlier one.
"""

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.models.mixers import kernels, pattern
from gptjax.models.mixers.attention import attention_flops, attention_params, key_bytes, key_cache
from gptjax.models.mixers.cache import Kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.mixers.one_by_one import Arrays, OneByOneAttention, beside

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


class FixedAttention(OneByOneAttention):
    """Attention to one's own block and to the summary of earlier ones."""

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By blocks."""
        block, summary = self.config.block_tokens, self.config.mixer.sparse.summary
        return ops.fixed_attention(q, k, v, block=block, summary=summary, **options)

    def fill(
        self,
        cache: Arrays,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> Arrays:
        """The last block, and the last tokens of every block."""
        block, summary = self.config.block_tokens, self.config.mixer.sparse.summary
        kept = super().fill(cache, q, k, v, info, arrays)
        for name, x_BTKH in (("k", k), ("v", v)):
            places = jnp.arange(cache[f"last_{name}"].shape[2])
            places = places // summary * block + block - summary + places % summary
            # Beyond the input are blocks that have not begun.
            last_BSKH = x_BTKH[:, jnp.minimum(places, x_BTKH.shape[1] - 1)]
            kept[f"last_{name}"] = jnp.moveaxis(last_BSKH, 1, 2).astype(cache["k"].dtype)
        return kept

    def attend_one(
        self, cache: Arrays, token: Arrays, position_B1: jax.Array, arrays: dict[str, Any]
    ) -> tuple[jax.Array, Arrays]:
        """By the block of the token, and by what is kept of those before."""
        block, summary = self.config.block_tokens, self.config.mixer.sparse.summary
        after = {name: ops.write_ring(cache[name], token[name], position_B1) for name in "kv"}
        own_B1, place_B1 = position_B1 // block, position_B1 % block - (block - summary)
        is_last_B1 = (place_B1 >= 0) & (position_B1 >= 0)
        slot_B1 = jnp.where(is_last_B1, own_B1 * summary + place_B1, -1)
        for name in "kv":
            after[f"last_{name}"] = ops.write_ring(cache[f"last_{name}"], token[name], slot_B1)
        slots = jnp.arange(after["last_k"].shape[2])
        ends = slots // summary * block + block - summary + slots % summary
        ends_BS = jnp.where(slots // summary < own_B1, ends, -1)
        o_B1NH = ops.cached_attention(
            token["q"],
            beside(after, "k", "last_k"),
            beside(after, "v", "last_v"),
            position_B1,
            jnp.concatenate([pattern.own_block(position_B1, block), ends_BS], axis=1),
            **arrays,
            **kernels.options(self.config),
        )
        return o_B1NH, after


def _keys(config: "ModelConfig") -> float:
    return pattern.summarised_keys(config.seq_len, config.block_tokens, config.mixer.sparse.summary)


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    block = config.block_tokens
    ends = -(-tokens // block) * config.mixer.sparse.summary
    last = {f"last_{name}": x for name, x in key_cache(config, ends).items()}
    return key_cache(config, block) | last


def _check(config: "ModelConfig") -> None:
    pattern.check_latent(config, "fixed")
    pattern.check_summary(config)


register(
    "fixed",
    Mixer(
        module=FixedAttention,
        params=attention_params,
        flops=lambda config: attention_flops(config, _keys(config)),
        cache_bytes=lambda config, context: key_bytes(
            config, pattern.summarised_tokens(config, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=_check,
        cache=_cache,
        rewinds=False,
    ),
)
