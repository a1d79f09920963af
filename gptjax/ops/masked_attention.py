"""Masked attention: windows, soft caps, ALiBi, sinks, for which `attention` has no fast path.

Also another scale, and values of another width than the keys. Plain autodiff; a windowed query
block reads only the keys that it can see, so that a window w costs about T·w products, not T².
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from gptjax.ops.attention import MASKED, query_blocks
from gptjax.ops.dropout import dropout as drop

DROPOUT_PLACE = 1 << 16
"""Where the places of attention's masks begin: beyond those of a block's other masks."""


def masked_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    scale: float | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
    slopes_N: Float[Array, " N"] | None = None,
    sinks_N: Float[Array, " N"] | None = None,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    dropout: float = 0.0,
    seeds_B: UInt32[Array, " B"] | None = None,
) -> Float[Array, "B T N U"]:
    """softmax(cap(scale·q·kᵀ) − slope·(i − j) + mask)·v in float32, in the type of the queries.

    Args:
      scale: multiplies the scores; 1/√H by default.
      window: a query sees itself and the window − 1 tokens before it (Mistral); 0: all.
      soft_cap: c·tanh(score/c) (Gemma 2, 2024); 0: none.
      slopes_N: ALiBi's m of each head (Press et al., 2021).
      sinks_N: a score of each head that takes part in the softmax and has no value (GPT-OSS).
      segment_ids_BT: where given, a query sees only keys of its own segment.
      dropout: share of the weights that is zero, the others multiplied by 1/(1 − dropout).
      seeds_B: of the masks of dropout.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    scale = 1 / math.sqrt(H) if scale is None else scale
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    outputs = []
    for start, end in query_blocks(T):
        first = max(0, start - window + 1) if window else 0
        scores = jnp.einsum(
            "btkgh,bskh->bkgts",
            q_BTKGH[:, start:end],
            k_BTKH[:, first:end],
            preferred_element_type=jnp.float32,
        )
        scores = scores * scale
        if soft_cap:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        distance_ts = jnp.arange(start, end)[:, None] - jnp.arange(first, end)[None, :]
        if slopes_N is not None:
            scores = scores - slopes_N.reshape(K, N // K, 1, 1) * distance_ts
        visible = distance_ts >= 0
        if window:
            visible &= distance_ts < window
        if segment_ids_BT is not None:
            same_Bts = segment_ids_BT[:, start:end, None] == segment_ids_BT[:, None, first:end]
            visible = (visible & same_Bts)[:, None, None]
        weights = softmax_with_sinks(jnp.where(visible, scores, MASKED), sinks_N)
        if seeds_B is not None:
            weights = drop(weights, seeds_B, rate=dropout, place=DROPOUT_PLACE + start)
        outputs.append(
            jnp.einsum(
                "bkgts,bsku->btkgu",
                weights.astype(v_BTKU.dtype),
                v_BTKU[:, first:end],
                preferred_element_type=jnp.float32,
            )
        )
    o_BTKGU = jnp.concatenate(outputs, axis=1)
    return o_BTKGU.reshape(B, T, N, v_BTKU.shape[-1]).astype(q_BTNH.dtype)


def alibi_slopes(num_heads: int) -> list[float]:
    """ALiBi's slopes: 2^(−8/n), 2^(−16/n), … for n a power of two (Press et al., 2021, section 3).

    Other numbers of heads take every second slope of the next power for the rest, as the authors'
    code does.

    >>> alibi_slopes(4)
    [0.25, 0.0625, 0.015625, 0.00390625]
    """
    power = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    more = [2 ** (-4 * (i + 1) / power) for i in range(0, 2 * power, 2)]
    return slopes + more[: num_heads - power]


def softmax_with_sinks(scores: jax.Array, sinks_N: jax.Array | None) -> jax.Array:
    """softmax over the last axis of [B, K, G, T, S], with one more score a head where given."""
    if sinks_N is None:
        return jax.nn.softmax(scores, axis=-1)
    sinks = sinks_N.astype(jnp.float32).reshape(*scores.shape[1:3], 1, 1)
    top = jnp.maximum(jnp.max(scores, axis=-1, keepdims=True), sinks)
    e = jnp.exp(scores - top)
    return e / (jnp.sum(e, axis=-1, keepdims=True) + jnp.exp(sinks - top))
