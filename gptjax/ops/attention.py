"""Causal self-attention with multi-head, grouped and multi-query heads."""

import math

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, so that a row's maximum is always a number


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q·kᵀ/√H + mask)·v, each query seeing itself and what came before it.

    Scores, exponentials and their sum are float32. The division by the sum comes after the
    product with v, where it touches H numbers a query and not T.

    Args:
      q_BTNH: queries; head n uses the keys and values of head n // (N/K).
      k_BTKH, v_BTKH: keys and values; K = N is multi-head attention, K = 1 multi-query.
      segment_ids_BT: where given, a query sees only keys of its own segment.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H) * (1 / math.sqrt(H))
    scores_BKGTS = jnp.einsum(
        "BTKGH,BSKH->BKGTS", q_BTKGH, k_BTKH, preferred_element_type=jnp.float32
    )
    visible = jnp.tril(jnp.ones((T, T), bool))
    if segment_ids_BT is not None:
        same_BTS = segment_ids_BT[:, :, None] == segment_ids_BT[:, None, :]
        visible = (visible & same_BTS)[:, None, None]
    scores_BKGTS = jnp.where(visible, scores_BKGTS, MASKED)
    weights_BKGTS = jnp.exp(scores_BKGTS - jnp.max(scores_BKGTS, axis=-1, keepdims=True))
    sums_BKGT = jnp.sum(weights_BKGTS, axis=-1)
    o_BTKGH = jnp.einsum(
        "BKGTS,BSKH->BTKGH",
        weights_BKGTS.astype(v_BTKH.dtype),
        v_BTKH,
        preferred_element_type=jnp.float32,
    )
    o_BTKGH = o_BTKGH / jnp.transpose(sums_BKGT, (0, 3, 1, 2))[..., None]
    return o_BTKGH.reshape(B, T, N, H).astype(q_BTNH.dtype)
