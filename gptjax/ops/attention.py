"""Causal self-attention with multi-head, grouped-query and multi-query heads.

The backward pass is written out (Dao et al., 2022, appendix B.2, without its tiling): autodiff
of the same lines costs half as much again on CPU, and twice the compile time. Queries are taken
in a few blocks, each of which sees only the keys up to its end, so that most of the masked half
of the scores is never computed. Inside, `R` are rows of one key head: queries × their group.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, so that a row's maximum is always a number
MIN_BLOCK = 128  # shorter blocks of queries cost more in overhead than they save
MAX_BLOCKS = 4  # more save little: 4 blocks leave 5/8 of the scores, infinitely many 1/2


def attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T N H"]:
    """softmax(q·kᵀ/√H + mask)·v, each query seeing itself and what came before it.

    Scores, exponentials and their sums are float32. Only reverse-mode derivatives exist.

    Args:
      q_BTNH: queries; head n uses the keys and values of head n // (N/K).
      k_BTKH, v_BTKH: keys and values; K = N is multi-head attention, K = 1 multi-query.
      segment_ids_BT: where given, a query sees only keys of its own segment.
    """
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    G = N // K
    q_BTKGH = (q_BTNH * (1 / math.sqrt(H))).reshape(B, T, K, G, H)
    q_BKRH = jnp.transpose(q_BTKGH, (0, 2, 1, 3, 4)).reshape(B, K, T * G, H)
    k_BKSH = jnp.transpose(k_BTKH, (0, 2, 1, 3))
    v_BKSH = jnp.transpose(v_BTKH, (0, 2, 1, 3))
    o_BKRH = _attend(q_BKRH, k_BKSH, v_BKSH, segment_ids_BT)
    o_BTKGH = jnp.transpose(o_BKRH.reshape(B, K, T, G, H), (0, 2, 1, 3, 4))
    return o_BTKGH.reshape(B, T, N, H)


@jax.custom_vjp
def _attend(
    q_BKRH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segment_ids_BS: jax.Array | None
) -> jax.Array:
    return _attend_forward(q_BKRH, k_BKSH, v_BKSH, segment_ids_BS)[0]


def _attend_forward(
    q_BKRH: jax.Array, k_BKSH: jax.Array, v_BKSH: jax.Array, segment_ids_BS: jax.Array | None
) -> tuple[jax.Array, tuple]:
    """The output, and what the backward pass needs: exponentials and inverse sums by block."""
    G = q_BKRH.shape[2] // k_BKSH.shape[2]
    outputs, exponentials, inverse_sums = [], [], []
    for start, end in query_blocks(k_BKSH.shape[2]):
        q_BKrH = q_BKRH[:, :, start * G : end * G]
        scores_BKrs = _dot("BKrH,BKsH->BKrs", q_BKrH, k_BKSH[:, :, :end])
        visible = _visible(start, end, G, segment_ids_BS)
        scores_BKrs = jnp.where(visible, scores_BKrs, MASKED)
        e_BKrs = jnp.exp(scores_BKrs - jnp.max(scores_BKrs, axis=-1, keepdims=True))
        inverse_BKr1 = 1 / jnp.sum(e_BKrs, axis=-1, keepdims=True)
        e_BKrs = e_BKrs.astype(v_BKSH.dtype)
        # Dividing after the product touches H numbers a query instead of T.
        o_BKrH = _dot("BKrs,BKsH->BKrH", e_BKrs, v_BKSH[:, :, :end]) * inverse_BKr1
        outputs.append(o_BKrH.astype(q_BKRH.dtype))
        exponentials.append(e_BKrs)
        inverse_sums.append(inverse_BKr1)
    o_BKRH = jnp.concatenate(outputs, axis=2)
    return o_BKRH, (q_BKRH, k_BKSH, v_BKSH, o_BKRH, exponentials, inverse_sums)


def _attend_backward(saved: tuple, do_BKRH: jax.Array) -> tuple:
    """With P = e/Σe: dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − rowsum(dO∘O)), dQ = dS·K, dK = dSᵀ·Q."""
    q_BKRH, k_BKSH, v_BKSH, o_BKRH, exponentials, inverse_sums = saved
    S = k_BKSH.shape[2]
    G = q_BKRH.shape[2] // S
    dtype = q_BKRH.dtype
    dq_blocks = []
    dk_BKHS = dv_BKHS = jnp.zeros((), jnp.float32)
    blocks = zip(query_blocks(S), exponentials, inverse_sums, strict=True)
    for (start, end), e_BKrs, inverse_BKr1 in blocks:
        rows = slice(start * G, end * G)
        g_BKrH = do_BKRH[:, :, rows] * inverse_BKr1
        drop_BKr1 = jnp.sum(g_BKrH * o_BKRH[:, :, rows], axis=-1, keepdims=True)
        g_BKrH = g_BKrH.astype(dtype)
        dp_BKrs = _dot("BKrH,BKsH->BKrs", g_BKrH, v_BKSH[:, :, :end])
        ds_BKrs = (e_BKrs * (dp_BKrs - drop_BKr1)).astype(dtype)
        dq_blocks.append(_dot("BKrs,BKsH->BKrH", ds_BKrs, k_BKSH[:, :, :end]))
        # Keys last: the other order of these two products is three times slower on CPU.
        pad = ((0, 0), (0, 0), (0, 0), (0, S - end))
        dk_BKHS = dk_BKHS + jnp.pad(_dot("BKrH,BKrs->BKHs", q_BKRH[:, :, rows], ds_BKrs), pad)
        dv_BKHS = dv_BKHS + jnp.pad(_dot("BKrH,BKrs->BKHs", g_BKrH, e_BKrs), pad)
    dq_BKRH = jnp.concatenate(dq_blocks, axis=2)
    dk_BKSH, dv_BKSH = jnp.swapaxes(dk_BKHS, 2, 3), jnp.swapaxes(dv_BKHS, 2, 3)
    return dq_BKRH.astype(dtype), dk_BKSH.astype(dtype), dv_BKSH.astype(dtype), None


_attend.defvjp(_attend_forward, _attend_backward)


def query_blocks(T: int) -> list[tuple[int, int]]:
    """Starts and ends of at most MAX_BLOCKS blocks of at least MIN_BLOCK queries."""
    size = max(MIN_BLOCK, -(-T // MAX_BLOCKS))
    return [(start, min(start + size, T)) for start in range(0, T, size)]


def _visible(start: int, end: int, G: int, segment_ids_BS: jax.Array | None) -> jax.Array:
    """Which of the keys before `end` the rows of queries start…end may see."""
    queries_r = jnp.repeat(jnp.arange(start, end), G)
    visible_rs = queries_r[:, None] >= jnp.arange(end)[None, :]
    if segment_ids_BS is None:
        return visible_rs
    ids_Br = jnp.repeat(segment_ids_BS[:, start:end], G, axis=1)
    same_Brs = ids_Br[:, :, None] == segment_ids_BS[:, None, :end]
    return (visible_rs & same_Brs)[:, None]


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
