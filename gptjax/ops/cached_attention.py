"""Attention to keys in a cache, each labelled by its position in its own text.

A cache keeps keys head by head (`BKSH`), so that the products of one token read it in its own
order. Which slot holds what is said by positions alone: rows of a batch may be at different
places, a ring may have rolled, and a slot that holds nothing has a negative position.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.ops.attention import MASKED
from gptjax.ops.masked_attention import softmax_with_sinks

Sees = Callable[[jax.Array, jax.Array], jax.Array]
"""(query positions [B, T, 1], key positions [B, 1, S]) → visible [B, T, S] or [B, N, T, S]."""


def cached_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BKSH: Float[Array, "B K S H"],
    v_BKSU: Float[Array, "B K S U"],
    q_positions_BT: Int[Array, "B T"],
    k_positions_BS: Int[Array, "B S"],
    *,
    sees: Sees | None = None,
    scale: float | None = None,
    soft_cap: float = 0.0,
    slopes_N: Float[Array, " N"] | None = None,
    sinks_N: Float[Array, " N"] | None = None,
) -> Float[Array, "B T N U"]:
    """softmax(cap(scale·q·kᵀ) − slope·(i − j) + mask)·v, as `masked_attention`, by positions.

    Args:
      k_positions_BS: of the token in each slot; negative: the slot is empty. A query sees those
        that are not later than itself.
      sees: which of these pairs a kind of attention leaves in; None: all.
      scale, soft_cap, slopes_N, sinks_N: as in `masked_attention`.
    """
    B, T, N, H = q_BTNH.shape
    K, U = k_BKSH.shape[1], v_BKSU.shape[-1]
    q_BKRH = jnp.moveaxis(q_BTNH.reshape(B, T, K, N // K, H), 1, 3).reshape(B, K, -1, H)
    scores = jnp.einsum("bkrh,bksh->bkrs", q_BKRH, k_BKSH, preferred_element_type=jnp.float32)
    scores = scores.reshape(B, K, N // K, T, -1) * (1 / math.sqrt(H) if scale is None else scale)
    if soft_cap:
        scores = soft_cap * jnp.tanh(scores / soft_cap)
    i_BT1, j_B1S = q_positions_BT[:, :, None], k_positions_BS[:, None, :]
    if slopes_N is not None:
        distance_BTS = (i_BT1 - j_B1S)[:, None, None]
        scores = scores - slopes_N.reshape(K, N // K, 1, 1) * distance_BTS
    visible = _visible(i_BT1, j_B1S, sees, (B, K, N // K))
    weights = softmax_with_sinks(jnp.where(visible, scores, MASKED), sinks_N)
    weights_BKRS = weights.astype(v_BKSU.dtype).reshape(B, K, -1, weights.shape[-1])
    o_BKRU = jnp.einsum("bkrs,bksu->bkru", weights_BKRS, v_BKSU, preferred_element_type=jnp.float32)
    o_BTKGU = jnp.moveaxis(o_BKRU.reshape(B, K, N // K, T, U), 3, 1)
    return o_BTKGU.reshape(B, T, N, U).astype(q_BTNH.dtype)


def _visible(
    i_BT1: jax.Array, j_B1S: jax.Array, sees: Sees | None, heads: tuple[int, int, int]
) -> Bool[Array, "B k g T S"]:
    """[B, K or 1, G or 1, T, S]."""
    there_BTS = (j_B1S >= 0) & (j_B1S <= i_BT1)
    if sees is None:
        return there_BTS[:, None, None]
    left = sees(i_BT1, j_B1S)
    if left.ndim == 3:
        return (there_BTS & left)[:, None, None]
    by_head = (there_BTS[:, None] & left).reshape(*heads, *left.shape[-2:])
    assert isinstance(by_head, jax.Array)
    return by_head


def ring_positions(tokens_B: Int[Array, " B"], slots: int) -> Int[Array, "B {slots}"]:
    """Of each slot the position that a ring holds there after so many tokens; negative: none.

    Position p lies in slot p mod slots; a cache that never rolls is a ring that is long enough.

    >>> ring_positions(jnp.array([2, 6]), 4).tolist()
    [[0, 1, -2, -1], [4, 5, 2, 3]]
    """
    last_B1 = tokens_B[:, None] - 1
    return last_B1 - (last_B1 - jnp.arange(slots)[None]) % slots


def write_ring(
    ring_BKSH: Float[Array, "B K S H"],
    x_BTKH: Float[Array, "B T K H"],
    positions_BT: Int[Array, "B T"],
) -> Float[Array, "B K S H"]:
    """The ring with the tokens at their slots; those without a position are left out.

    Of several that share a slot the last is written.
    """
    B, T = positions_BT.shape
    S = ring_BKSH.shape[2]
    newest_B1 = jnp.max(positions_BT, axis=1, keepdims=True)
    stays_BT = (positions_BT >= 0) & (positions_BT > newest_B1 - S)
    slot_BT = jnp.where(stays_BT, positions_BT % S, S)
    if B == T == 1:
        # With a second token, which is left out: XLA's CPU backend makes of a single one an update
        # that it fuses into each reader of the ring, and copies the ring four times for that.
        slot_BT = jnp.pad(slot_BT, ((0, 0), (0, 1)), constant_values=S)
        x_BTKH = jnp.pad(x_BTKH, ((0, 0), (0, 1), (0, 0), (0, 0)))
    row_BT = jnp.broadcast_to(jnp.arange(B)[:, None], slot_BT.shape)
    return ring_BKSH.at[row_BT, :, slot_BT].set(x_BTKH.astype(ring_BKSH.dtype), mode="drop")


def fill_ring(
    ring_BKSH: Float[Array, "B K S H"],
    x_BTKH: Float[Array, "B T K H"],
    tokens_B: Int[Array, " B"],
) -> Float[Array, "B K S H"]:
    """An empty ring after the first so many of T tokens, which are in their order.

    The same as `write_ring`, without a loop over tokens.
    """
    T, S = x_BTKH.shape[1], ring_BKSH.shape[2]
    x_BKTH = jnp.moveaxis(x_BTKH, 1, 2).astype(ring_BKSH.dtype)
    if T <= S:
        return jax.lax.dynamic_update_slice(ring_BKSH, x_BKTH, (0, 0, 0, 0))
    place_BS = jnp.clip(ring_positions(tokens_B, S), 0, T - 1)
    return jnp.take_along_axis(x_BKTH, place_BS[:, None, :, None], axis=2)
