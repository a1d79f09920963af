"""Multi-head latent attention (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.1).

Keys and values are linear functions of one narrow normed vector a token, kv_rank wide, and of one
rotated key of rope_dim columns that all heads share. A cache holds these two and nothing else.
"""

import dataclasses
import functools
import math
import operator
from typing import TYPE_CHECKING

import flax.linen as nn
import jax
import jax.numpy as jnp

from gptjax import ops
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.models.mixers.cache import Kept, keep, kept
from gptjax.models.mixers.mixer import Mixer, TokenInfo
from gptjax.models.norms import normed
from gptjax.models.parameters import hidden_init, parameter, residual_init, weight
from gptjax.models.product import product
from gptjax.models.rope import rotate

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class LatentConfig:
    """Multi-head latent attention (DeepSeek-V2), in the place of ordinary heads."""

    kv_rank: int = setting(
        0,
        "multi-head latent attention: width of the cached vector; 0: ordinary heads",
        minimum=0,
        was="kv_rank",
    )
    q_rank: int = setting(
        0, "latent attention: rank of the queries; 0: full", minimum=0, was="q_rank"
    )
    rope_dim: int = setting(
        64,
        "latent attention: columns that are rotated, besides model.head_dim that are not",
        minimum=2,
        was="rope_dim",
    )
    value_dim: int = setting(
        0, "latent attention: width of a value; 0: that of a head", minimum=0, was="value_dim"
    )


class LatentAttention(nn.Module):
    """Attention through low-rank queries, keys and values."""

    config: "ModelConfig"
    kind: str = "global"

    @nn.compact
    def __call__(self, x_BTD: jax.Array, info: TokenInfo) -> jax.Array:
        cfg = self.config
        D, N, H, U = cfg.width, cfg.num_heads, cfg.head_width, cfg.value_width
        R, r = cfg.mixer.latent.kv_rank, cfg.mixer.latent.rope_dim
        q_BTNH = self._queries(x_BTD)
        c_BTR = self._linear(x_BTD, "kv_down", (R + r,), ("rank",))
        c_BTR, k_BT1r = c_BTR[..., :R], c_BTR[..., None, R:]
        c_BTR = self._norm(c_BTR, "kv_norm_scale")
        k_BT1r = rotate(cfg, k_BT1r, info.positions_BT, info.length)
        plain_BTNH, rotated_BTNr = q_BTNH[..., :H], q_BTNH[..., H:]
        rotated_BTNr = rotate(cfg, rotated_BTNr, info.positions_BT, info.length)
        if info.decoding is not None and not info.decoding.fresh:
            o_BTNU = self._attend_cached(plain_BTNH, rotated_BTNr, c_BTR, k_BT1r, info)
        else:
            o_BTNU = self._attend(plain_BTNH, rotated_BTNr, c_BTR, k_BT1r, info)
        axes = ("heads", "head_dim", "embed")
        w_NUD = weight(self, "out", (N, U, D), axes, residual_init(cfg))
        return product(o_BTNU, w_NUD, inputs=2)

    def _attend(
        self, plain: jax.Array, rotated: jax.Array, c: jax.Array, k_BT1r: jax.Array, info: TokenInfo
    ) -> jax.Array:
        """o_BTNU of a whole text, by keys and values of every head."""
        cfg = self.config
        N, H, U = cfg.num_heads, cfg.head_width, cfg.value_width
        kv_BTNH = self._linear(c, "kv_up", (N, H + U), ("heads", "head_dim"))
        if info.decoding is not None:
            filled = {"latent": c[:, :, None], "rotated": k_BT1r}
            cache, after_B = kept(self), info.decoding.after_B
            keep(self, {k: ops.fill_ring(cache[k], x, after_B) for k, x in filled.items()})
        k_BTNr = jnp.broadcast_to(k_BT1r, (*kv_BTNH.shape[:3], k_BT1r.shape[-1]))
        q_BTNH = jnp.concatenate([plain, rotated], axis=-1)
        k_BTNH = jnp.concatenate([kv_BTNH[..., :H], k_BTNr], axis=-1)
        return ops.attend_by(
            ops.masked_attention,
            q_BTNH,
            k_BTNH,
            kv_BTNH[..., H:],
            scale=latent_scale(cfg),
            window=cfg.window if self.kind == "local" else 0,
            segment_ids_BT=info.segment_ids_BT,
            dropout=0.0 if info.seeds_B is None else cfg.dropout.attention,
            seeds_B=info.seeds_B,
        )

    def _attend_cached(
        self, plain: jax.Array, rotated: jax.Array, c: jax.Array, k_BT1r: jax.Array, info: TokenInfo
    ) -> jax.Array:
        """o_BTNU of further tokens: queries and outputs pass `kv_up`, the cached vectors do not.

        (W_k c)·q = c·(W_kᵀ q) and Σ p (W_v c) = W_v (Σ p c), the paper's section 2.1.2.
        """
        assert info.decoding is not None and info.positions_BT is not None
        cfg, positions_BT, decoding = self.config, info.positions_BT, info.decoding
        N, H, U = cfg.num_heads, cfg.head_width, cfg.value_width
        axes = ("embed", "heads", "head_dim")
        w_RNH = parameter(self, "kv_up", (c.shape[-1], N, H + U), axes, hidden_init(cfg))
        absorbed_BTNR = jnp.einsum("btnh,rnh->btnr", plain, w_RNH[..., :H].astype(plain.dtype))
        q_BTNR = jnp.concatenate([absorbed_BTNR, rotated], axis=-1)
        cache, new = kept(self), {"latent": c[:, :, None], "rotated": k_BT1r}
        after = {name: ops.write_ring(cache[name], x, positions_BT) for name, x in new.items()}
        keep(self, after)
        seen, slots = after, after["latent"].shape[2]
        places_BS = ops.ring_positions(decoding.after_B, slots)
        window = cfg.window if self.kind == "local" else 0
        if window and c.shape[1] > 1:
            seen = {
                name: jnp.concatenate([cache[name], jnp.moveaxis(x, 1, 2)], axis=2)
                for name, x in new.items()
            }
            before_BS = ops.ring_positions(decoding.before_B, slots)
            places_BS = jnp.concatenate([before_BS, positions_BT], axis=1)
        o_BTNR = ops.cached_attention(
            q_BTNR,
            jnp.concatenate([seen["latent"], seen["rotated"]], axis=-1),
            seen["latent"],
            positions_BT,
            places_BS,
            sees=(lambda i, j: i - j < window) if window else None,
            scale=latent_scale(cfg),
        )
        return jnp.einsum("btnr,rnu->btnu", o_BTNR, w_RNH[..., H:].astype(o_BTNR.dtype))

    def _queries(self, x_BTD: jax.Array) -> jax.Array:
        cfg = self.config
        heads, axes = (
            (cfg.num_heads, cfg.head_width + cfg.mixer.latent.rope_dim),
            ("heads", "head_dim"),
        )
        if not cfg.mixer.latent.q_rank:
            return self._linear(x_BTD, "query", heads, axes)
        c_BTR = self._linear(x_BTD, "query_down", (cfg.mixer.latent.q_rank,), ("rank",))
        return self._linear(self._norm(c_BTR, "query_norm_scale"), "query_up", heads, axes)

    def _norm(self, c_BTR: jax.Array, name: str) -> jax.Array:
        scale = parameter(self, name, c_BTR.shape[-1:], ("rank",), nn.initializers.ones)
        return normed(self.config, c_BTR, scale)

    def _linear(
        self, x: jax.Array, name: str, out: tuple[int, ...], axes: tuple[str, ...]
    ) -> jax.Array:
        width = x.shape[-1]
        w = weight(self, name, (width, *out), ("embed", *axes), hidden_init(self.config))
        return product(x, w)


def latent_scale(config: "ModelConfig") -> float:
    """1/√(columns of a query), times YaRN's factor squared as DeepSeek's published code has it."""
    if config.attention_scale:
        return config.attention_scale
    scale = (config.head_width + config.mixer.latent.rope_dim) ** -0.5
    if config.rope.scaling != "none" and config.rope.mscale_all_dim and config.rope.factor > 1:
        scale *= (0.1 * config.rope.mscale_all_dim * math.log(config.rope.factor) + 1) ** 2
    return scale


def _params(config: "ModelConfig") -> int:
    D, N, H, U = config.width, config.num_heads, config.head_width, config.value_width
    R, Q, r = config.mixer.latent.kv_rank, config.mixer.latent.q_rank, config.mixer.latent.rope_dim
    query = (D + N * (H + r) + 1) * Q if Q else D * N * (H + r)
    return query + D * (R + r) + R + R * N * (H + U) + N * U * D


def _flops(config: "ModelConfig", window: bool) -> float:
    D, N, U, Q, R = (
        config.width,
        config.num_heads,
        config.value_width,
        config.mixer.latent.q_rank,
        config.mixer.latent.kv_rank,
    )
    keys = min(config.window, config.seq_len) if window else config.seq_len
    columns = config.head_width + config.mixer.latent.rope_dim
    queries = (D + N * columns) * Q if Q else D * N * columns
    latents = D * (R + config.mixer.latent.rope_dim) + R * N * (config.head_width + U)
    scores = keys * N * (columns + U)
    return 2.0 * (queries + latents + N * U * D + scores)


def _cache_bytes(config: "ModelConfig", context: int, window: bool) -> int:
    tokens = min(config.window, context) if window else context
    number = jnp.dtype(config.compute_dtype).itemsize
    return tokens * number * (config.mixer.latent.kv_rank + config.mixer.latent.rope_dim)


def _cache(config: "ModelConfig", tokens: int, window: bool) -> dict[str, Kept]:
    slots = min(config.window, tokens) if window else tokens
    widths = {"latent": config.mixer.latent.kv_rank, "rotated": config.mixer.latent.rope_dim}
    return {name: Kept((1, slots, width), (None, None, None)) for name, width in widths.items()}


_NOT_BUILT = {
    "attention_gate": False,
    "attention_sinks": False,
    "attention_soft_cap": 0.0,
    "qk_norm": "none",
    "norm": "rmsnorm",
    "norm_plus_one": False,
    "positions": "rotary",
    "rope.fraction": 1.0,
}


def check(config: "ModelConfig") -> None:
    """Refuse what latent attention leaves out."""
    for name, wanted in _NOT_BUILT.items():
        given = operator.attrgetter(name)(config)
        if given != wanted:
            raise UserError(
                f"model.{name}={given} is not built for latent attention "
                f"(model.mixer.latent.kv_rank={config.mixer.latent.kv_rank}); set "
                f"model.{name}={wanted}"
            )
    if config.has_bias("qkv") or config.has_bias("out") or config.mixer.latent.rope_dim % 2:
        raise UserError(
            f"latent attention (model.mixer.latent.kv_rank={config.mixer.latent.kv_rank}) has no "
            "biases and rotates pairs; "
            "set model.use_bias=false and an even model.mixer.latent.rope_dim"
        )


def _latent(window: bool) -> Mixer:
    return Mixer(
        module=LatentAttention,
        params=_params,
        flops=functools.partial(_flops, window=window),
        cache_bytes=functools.partial(_cache_bytes, window=window),
        held=lambda config, segmented: 5.0 * config.num_heads * config.seq_len,
        check=check,
        cache=functools.partial(_cache, window=window),
        rewinds=not window,
        windowed=window,
        shares_kernels=True,
    )


LATENT, LATENT_LOCAL = _latent(window=False), _latent(window=True)
