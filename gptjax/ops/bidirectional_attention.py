"""Bidirectional attention: of encoders, and of one sequence to another (cross-attention)."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from gptjax.ops.attention import MASKED


def bidirectional_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BSKH: Float[Array, "B S K H"],
    v_BSKU: Float[Array, "B S K U"],
    *,
    scale: float | None = None,
    visible_BTS: Bool[Array, "B T S"] | None = None,
) -> Float[Array, "B T N U"]:
    """softmax(scale·q·kᵀ)·v where every query sees every key, or those it is shown.

    Scores and softmax are float32. A query that is shown no key at all gets zeros.

    Args:
      q_BTNH: queries; head n uses the keys and values of head n // (N/K).
      scale: multiplies the scores; 1/√H by default.
      visible_BTS: where given, which keys a query sees.
    """
    B, T, N, H = q_BTNH.shape
    K, U = v_BSKU.shape[2:]
    scale = 1 / math.sqrt(H) if scale is None else scale
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    scores_BKGTS = _dot("btkgh,bskh->bkgts", q_BTKGH, k_BSKH) * scale
    if visible_BTS is None:
        weights_BKGTS = jax.nn.softmax(scores_BKGTS, axis=-1)
    else:
        visible = visible_BTS[:, None, None]
        weights_BKGTS = jax.nn.softmax(jnp.where(visible, scores_BKGTS, MASKED), axis=-1)
        weights_BKGTS = jnp.where(visible, weights_BKGTS, 0.0)
    o_BTKGU = _dot("bkgts,bsku->btkgu", weights_BKGTS.astype(v_BSKU.dtype), v_BSKU)
    return o_BTKGU.reshape(B, T, N, U).astype(q_BTNH.dtype)


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
