"""Exact causal attention in memory linear in the context: one block of scores at a time.

The softmax is carried from block to block as a running maximum and sum (Milakov & Gimelshein,
2018; Rabe & Staats, 2021; Dao et al., 2022, algorithms 1 and 4). Only the output and the logarithm
of each row's sum are kept for the backward pass, which computes the scores again. Pairs of blocks
that no query can see into are never visited, so that causal attention costs half of the square
and a window costs its band. Inside, `R` are rows of one key head: queries × their group; `r` and
`s` are the rows and keys of one block, and `n` counts blocks.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

MASKED = -1e30  # finite, so that a row's maximum is always a number
BLOCK = 512  # queries and keys of a block: the fastest of 128 … 1024 on CPU at 2k to 16k tokens


@dataclasses.dataclass(frozen=True)
class _Options:
    """Static options of the kernel."""

    window: int
    soft_cap: float
    block: int
    group: int


def blockwise_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    scale: float | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
    block: int = BLOCK,
) -> Float[Array, "B T N U"]:
    """softmax(cap(q·kᵀ·scale) + mask)·v without ever holding T × T scores.

    Scores, exponentials and their sums are float32. Only reverse-mode derivatives exist.

    Args:
      q_BTNH: queries; head n uses the keys and values of head n // (N/K).
      k_BTKH, v_BTKU: keys and values; K = N is multi-head attention, K = 1 multi-query.
      segment_ids_BT: where given, a query sees only keys of its own segment.
      scale: multiplies the scores; 1/√H by default.
      window: a query sees itself and the window − 1 tokens before it; 0: all.
      soft_cap: scores become cap·tanh(score/cap) before they are masked (Gemma 2); 0: none.
      block: queries and keys of a block. Memory grows with block², the number of steps falls.
    """
    B, T, N, H = q_BTNH.shape
    K, U = v_BTKU.shape[2:]
    G = N // K
    block = min(block, T)
    options = _Options(window, soft_cap, block, G)
    q_BTNH = q_BTNH * (1 / math.sqrt(H) if scale is None else scale)
    q_nBKrH = to_blocks(q_BTNH.reshape(B, T, K, G * H), block).reshape(-1, B, K, block * G, H)
    k_nBKsH, v_nBKsH = to_blocks(k_BTKH, block), to_blocks(v_BTKU, block)
    ids_nBs = None
    if segment_ids_BT is not None:
        ids_nBs = to_blocks(segment_ids_BT[:, :, None, None], block)[:, :, 0, :, 0]
    o_nBKrH = _attend(options, q_nBKrH, k_nBKsH, v_nBKsH, ids_nBs)
    o_BnsKGH = jnp.transpose(o_nBKrH.reshape(-1, B, K, block, G, U), (1, 0, 3, 2, 4, 5))
    return o_BnsKGH.reshape(B, -1, N, U)[:, :T]


def to_blocks(x_BTKH: jax.Array, block: int) -> jax.Array:
    """[n, B, K, block, H]; tokens are added at the end, where no real query looks."""
    B, T, K, H = x_BTKH.shape
    n = -(-T // block)
    x_BTKH = jnp.pad(x_BTKH, ((0, 0), (0, n * block - T), (0, 0), (0, 0)))
    return jnp.transpose(x_BTKH.reshape(B, n, block, K, H), (1, 0, 3, 2, 4))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    options: _Options,
    q_nBKrH: jax.Array,
    k_nBKsH: jax.Array,
    v_nBKsH: jax.Array,
    ids_nBs: jax.Array | None,
) -> jax.Array:
    return _attend_forward(options, q_nBKrH, k_nBKsH, v_nBKsH, ids_nBs)[0]


def _attend_forward(
    options: _Options,
    q_nBKrH: jax.Array,
    k_nBKsH: jax.Array,
    v_nBKsH: jax.Array,
    ids_nBs: jax.Array | None,
) -> tuple[jax.Array, tuple]:
    """The output, and what the backward pass needs: the logarithm of each row's sum."""
    n, B, K, r, _ = q_nBKrH.shape
    U = v_nBKsH.shape[-1]
    new = (jnp.full((B, K, r, 1), MASKED), jnp.zeros((B, K, r, 1)), jnp.zeros((B, K, r, U)))
    o_nBKrH = jnp.zeros((n, B, K, r, U), q_nBKrH.dtype)
    lse_nBKr1 = jnp.zeros((n, B, K, r, 1))

    def visit(carry: tuple, pair: tuple) -> tuple[tuple, None]:
        running, o_nBKrH, lse_nBKr1 = carry
        i, j, first = pair
        running = jax.tree.map(lambda a, b: jnp.where(first, a, b), new, running)
        scores_BKrs, _ = _scores_of_pair(options, q_nBKrH[i], k_nBKsH[j], ids_nBs, i, j)
        high, sum_, out = absorb(running, scores_BKrs, v_nBKsH[j])
        # Written after every block of keys; the last one stays.
        o_nBKrH = o_nBKrH.at[i].set((out / sum_).astype(o_nBKrH.dtype))
        lse_nBKr1 = lse_nBKr1.at[i].set(high + jnp.log(sum_))
        return ((high, sum_, out), o_nBKrH, lse_nBKr1), None

    carry = (new, o_nBKrH, lse_nBKr1)
    pairs, q_nBKrH = tied(_pairs(options, n), q_nBKrH)
    (_, o_nBKrH, lse_nBKr1), _ = jax.lax.scan(visit, carry, pairs)
    return o_nBKrH, (q_nBKrH, k_nBKsH, v_nBKsH, ids_nBs, o_nBKrH, lse_nBKr1)


def _attend_backward(options: _Options, saved: tuple, do_nBKrH: jax.Array) -> tuple:
    """With P = exp(S − lse): dV = Pᵀ·dO, dS = P∘(dO·Vᵀ − rowsum(dO∘O)), dQ = dS·K, dK = dSᵀ·Q."""
    q_nBKrH, k_nBKsH, v_nBKsH, ids_nBs, o_nBKrH, lse_nBKr1 = saved
    dtype = q_nBKrH.dtype
    drop_nBKr1 = jnp.sum(
        do_nBKrH.astype(jnp.float32) * o_nBKrH.astype(jnp.float32), axis=-1, keepdims=True
    )
    n, B, K, s, H = k_nBKsH.shape
    U = v_nBKsH.shape[-1]
    zero = (jnp.zeros(q_nBKrH.shape), jnp.zeros((n, B, K, H, s)), jnp.zeros((n, B, K, U, s)))

    def visit(carry: tuple, pair: tuple) -> tuple[tuple, None]:
        dq_nBKrH, dk_nBKHs, dv_nBKHs = carry
        i, j, _ = pair
        rows = q_nBKrH[i], do_nBKrH[i], lse_nBKr1[i], drop_nBKr1[i]
        scores = _scores_of_pair(options, rows[0], k_nBKsH[j], ids_nBs, i, j)
        dq_BKrH, dk_BKHs, dv_BKHs = block_gradients(rows, k_nBKsH[j], v_nBKsH[j], scores)
        dq_nBKrH = dq_nBKrH.at[i].add(dq_BKrH)
        dk_nBKHs = dk_nBKHs.at[j].add(dk_BKHs)
        dv_nBKHs = dv_nBKHs.at[j].add(dv_BKHs)
        return (dq_nBKrH, dk_nBKHs, dv_nBKHs), None

    (dq_nBKrH, dk_nBKHs, dv_nBKHs), _ = jax.lax.scan(visit, zero, _pairs(options, n))
    dk_nBKsH, dv_nBKsH = jnp.swapaxes(dk_nBKHs, 3, 4), jnp.swapaxes(dv_nBKHs, 3, 4)
    gradients = (dq_nBKrH, dk_nBKsH, dv_nBKsH)
    return (*(x.astype(dtype) for x in gradients), None)


_attend.defvjp(_attend_forward, _attend_backward)


def _pairs(options: _Options, n: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(query block, key block, whether it is the first of its queries) of all that are visited."""
    reach = n * options.block if not options.window else options.window - 1
    found = []
    for i in range(n):
        first = max(0, (i * options.block - reach) // options.block)
        found += [(i, j, j == first) for j in range(first, i + 1)]
    queries, keys, starts = zip(*found, strict=True)
    return jnp.array(queries), jnp.array(keys), jnp.array(starts)


def _scores_of_pair(
    options: _Options,
    q_BKrH: jax.Array,
    k_BKsH: jax.Array,
    ids_nBs: jax.Array | None,
    i: jax.Array,
    j: jax.Array,
) -> tuple[jax.Array, jax.Array | float]:
    """`block_scores` of query block i and key block j of a whole sequence."""
    inside = jnp.arange(options.block)
    at = inside + i * options.block, inside + j * options.block
    ids = None if ids_nBs is None else (ids_nBs[i], ids_nBs[j])
    return block_scores(options, q_BKrH, k_BKsH, at, ids)


def tied(table: Any, x: jax.Array) -> tuple[Any, jax.Array]:
    """Both as they are, the table no longer a constant.

    A scan over layers computes once what does not depend on the layer: without this the masks of
    all pairs of blocks, which it would keep, T × T.
    """
    tied_: tuple[Any, jax.Array] = jax.lax.optimization_barrier((table, x))
    return tied_


def block_scores(
    options: Any,
    q_BKrH: jax.Array,
    k_BKsH: jax.Array,
    at: tuple[jax.Array, jax.Array],
    ids: tuple[jax.Array, jax.Array] | None,
) -> tuple[jax.Array, jax.Array | float]:
    """Capped and masked scores of one pair of blocks, and the slope of the cap.

    Args:
      options: with `window`, `soft_cap` and `group`, queries of a key head.
      at: positions of the queries' tokens and of the keys'.
      ids: segments of the same, [B, s] each.
    """
    scores_BKrs = _dot("BKrH,BKsH->BKrs", q_BKrH, k_BKsH)
    slope: jax.Array | float = 1.0
    if options.soft_cap:
        bent_BKrs = jnp.tanh(scores_BKrs / options.soft_cap)
        scores_BKrs, slope = options.soft_cap * bent_BKrs, 1 - jnp.square(bent_BKrs)
    ago_rs = jnp.repeat(at[0], options.group)[:, None] - at[1][None, :]
    visible = ago_rs >= 0
    if options.window:
        visible = visible & (ago_rs < options.window)
    if ids is not None:
        ids_Br = jnp.repeat(ids[0], options.group, axis=1)
        visible = (visible & (ids_Br[:, :, None] == ids[1][:, None, :]))[:, None]
    return jnp.where(visible, scores_BKrs, MASKED), slope


def absorb(running: tuple, scores_BKrs: jax.Array, v_BKsH: jax.Array) -> tuple:
    """(maximum, sum, unnormalised output) of rows that have seen one more block of keys."""
    max_, sum_, out = running
    high = jnp.maximum(max_, jnp.max(scores_BKrs, axis=-1, keepdims=True))
    shrink = jnp.exp(max_ - high)
    e_BKrs = jnp.exp(scores_BKrs - high)
    sum_ = sum_ * shrink + jnp.sum(e_BKrs, axis=-1, keepdims=True)
    e_BKrs = e_BKrs.astype(v_BKsH.dtype)
    return high, sum_, out * shrink + _dot("BKrs,BKsH->BKrH", e_BKrs, v_BKsH)


def block_gradients(rows: tuple, k_BKsH: jax.Array, v_BKsH: jax.Array, scores: tuple) -> tuple:
    """The terms of one pair of blocks in dQ, dKᵀ and dVᵀ, float32.

    Args:
      rows: queries, dO, the logarithm of each row's sum and rowsum(dO∘O).
      scores: of `block_scores`.
    """
    q_BKrH, do_BKrH, lse_BKr1, drop_BKr1 = rows
    scores_BKrs, slope_BKrs = scores
    dtype = q_BKrH.dtype
    p_BKrs = jnp.exp(scores_BKrs - lse_BKr1)
    dp_BKrs = _dot("BKrH,BKsH->BKrs", do_BKrH, v_BKsH)
    ds_BKrs = (p_BKrs * (dp_BKrs - drop_BKr1) * slope_BKrs).astype(dtype)
    # Keys last: the other order of the last two products is three times slower on CPU.
    dq_BKrH = _dot("BKrs,BKsH->BKrH", ds_BKrs, k_BKsH)
    dk_BKHs = _dot("BKrH,BKrs->BKHs", q_BKrH, ds_BKrs)
    return dq_BKrH, dk_BKHs, _dot("BKrH,BKrs->BKHs", do_BKrH, p_BKrs.astype(dtype))


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
