"""Longformer attention (Beltagy et al., 2020), causal, with the first tokens as the global ones."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.fields import setting
from gptjax.models.mixers import kernels, pattern
from gptjax.models.mixers.attention import (
    attention_flops,
    attention_params,
    key_bytes,
    key_cache,
    projection_params,
)
from gptjax.models.mixers.cache import Kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo, register
from gptjax.models.mixers.one_by_one import Arrays, OneByOneAttention, beside

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class LongformerConfig:
    """Longformer layers, besides model.window."""

    global_tokens: int = setting(
        1,
        "longformer: first tokens, which all see and which have projections of their own",
        minimum=1,
        was="global_tokens",
    )


class LongformerAttention(OneByOneAttention):
    """A window, and first tokens with projections of their own that all see and that see all."""

    def own_arrays(self, x_BTD: jax.Array, info: TokenInfo) -> dict[str, Any]:
        """Queries of the first tokens, keys and values for them."""
        cfg, positions = self.config, info.positions_BT
        # Further tokens of a text may all be among the first.
        further = info.decoding is not None and not info.decoding.fresh
        count = x_BTD.shape[1] if further else cfg.mixer.longformer.global_tokens
        first = TokenInfo(
            positions_BT=None if positions is None else positions[:, :count], length=info.length
        )
        first_BgD = x_BTD[:, :count]
        q_BgNH = self.heads(first_BgD, "global_query", cfg.num_heads, "heads")
        k_BgKH = self.heads(first_BgD, "global_key", cfg.kv_heads, "kv_heads")
        v_BgKH = self.heads(first_BgD, "global_value", cfg.kv_heads, "kv_heads")
        return {
            "global_q_BgNH": self.rotated(q_BgNH, first),
            "global_k_BSKH": self.rotated(k_BgKH, first),
            "global_v_BSKU": v_BgKH,
        }

    def attend(self, q: jax.Array, k: jax.Array, v: jax.Array, options: dict) -> jax.Array:
        """By the window, and by the first tokens."""
        return ops.longformer_attention(q, k, v, window=self.config.window, **options)

    def per_token(self) -> tuple[str, ...]:
        """Projections of the first tokens."""
        return "global_q_BgNH", "global_k_BSKH", "global_v_BSKU"

    def fill(
        self,
        cache: Arrays,
        q: jax.Array,
        k: jax.Array,
        v: jax.Array,
        info: TokenInfo,
        arrays: dict[str, Any],
    ) -> Arrays:
        """The window, and both projections of the first tokens."""
        kept = super().fill(cache, q, k, v, info, arrays)
        g = self.config.mixer.longformer.global_tokens
        first = {"k": k, "v": v, "global_k": arrays["global_k_BSKH"]}
        first["global_v"] = arrays["global_v_BSKU"]
        for name, x_BTKH in first.items():
            x_BKgH = jnp.moveaxis(x_BTKH[:, :g], 1, 2).astype(cache["k"].dtype)
            empty = cache[f"first_{name}"]
            kept[f"first_{name}"] = jax.lax.dynamic_update_slice(empty, x_BKgH, (0, 0, 0, 0))
        return kept

    def attend_one(
        self, cache: Arrays, token: Arrays, position_B1: jax.Array, arrays: dict[str, Any]
    ) -> tuple[jax.Array, Arrays]:
        """By the window and the first tokens; one of those by its own projections."""
        cfg = self.config
        g, options = cfg.mixer.longformer.global_tokens, {**arrays, **kernels.options(cfg)}
        after = {name: ops.write_ring(cache[name], token[name], position_B1) for name in "kv"}
        place_B1 = jnp.where(position_B1 < g, position_B1, -1)
        first = {"k": "k", "v": "v", "global_k": "global_k_BSKH", "global_v": "global_v_BSKU"}
        for name, given in first.items():
            kept = cache[f"first_{name}"]
            after[f"first_{name}"] = ops.write_ring(kept, token[given], place_B1)
        slots = after["k"].shape[2]
        ring_BS = ops.ring_positions(position_B1[:, 0] + 1, slots)
        ring_BS = jnp.where(position_B1 - ring_BS < cfg.window, ring_BS, -1)
        first_Bg = jnp.broadcast_to(jnp.arange(g), (ring_BS.shape[0], g))
        o_B1NH = ops.cached_attention(
            token["q"],
            beside(after, "k", "first_k"),
            beside(after, "v", "first_v"),
            position_B1,
            jnp.concatenate([jnp.where(ring_BS >= g, ring_BS, -1), first_Bg], axis=1),
            **options,
        )
        rows_B1NH = ops.cached_attention(
            token["global_q_BgNH"],
            after["first_global_k"],
            after["first_global_v"],
            position_B1,
            first_Bg,
            **options,
        )
        return jnp.where((position_B1 < g)[..., None, None], rows_B1NH, o_B1NH), after


def _keys(config: "ModelConfig") -> float:
    return min(config.seq_len, config.window + config.mixer.longformer.global_tokens)


def _cache(config: "ModelConfig", tokens: int) -> dict[str, Kept]:
    first = key_cache(config, config.mixer.longformer.global_tokens)
    kept = {f"first_{name}": x for name, x in first.items()}
    own = {f"first_global_{name}": x for name, x in first.items()}
    return key_cache(config, min(config.window, tokens)) | kept | own


def _params(config: "ModelConfig") -> int:
    own = projection_params(config, config.num_heads)
    return attention_params(config) + own + 2 * projection_params(config, config.kv_heads)


def _flops(config: "ModelConfig") -> float:
    N, K, H = config.num_heads, config.kv_heads, config.head_width
    share = min(1.0, config.mixer.longformer.global_tokens / config.seq_len)
    return attention_flops(config, _keys(config)) + 2.0 * config.width * H * (N + 2 * K) * share


register(
    "longformer",
    Mixer(
        module=LongformerAttention,
        params=_params,
        flops=_flops,
        cache_bytes=lambda config, context: key_bytes(
            config, min(config.window + config.mixer.longformer.global_tokens, context)
        ),
        held=lambda config, segmented: pattern.held(config, _keys(config)),
        check=lambda config: pattern.check_without(config, "longformer", {"qk_norm": "none"}),
        cache=_cache,
        rewinds=False,
        name="longformer_attention",
        windowed=True,
    ),
)
