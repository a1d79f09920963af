"""Exact causal attention of a sequence whose tokens are sharded over a ring of devices.

Every device keeps its queries; keys and values go around (Liu et al., 2023, "Ring Attention",
arXiv:2310.01889), each device absorbing those that are with it into the running softmax of
`blockwise_attention`. In the backward pass the gradients of keys and values travel with them, and
home at the end. Runs inside `jax.shard_map`.

With tokens in their order the last device of a causal ring would work while the first one waits.
So a sequence is split into twice as many chunks as there are devices, and device d has the chunks d
and 2n−1−d (`balanced_chunks`): each pair of devices then sees two pairs of chunks, whoever asks
whom. A table made before compiling says which chunks each device visits (`make_visits`).
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gptjax.ops.blockwise_attention import (
    BLOCK,
    MASKED,
    absorb,
    block_gradients,
    block_scores,
    tied,
    to_blocks,
)

UNSEEN = 2**30  # position of a key that fills up a block, after every query


@dataclasses.dataclass(frozen=True)
class Ring:
    """How a sequence lies on a ring.

    Attributes:
      axis: the mesh axis.
      chunks: for each device the chunks of the sequence that it has, in its order.
      size: tokens of a chunk.
    """

    axis: str
    chunks: tuple[tuple[int, ...], ...]
    size: int

    @property
    def positions(self) -> np.ndarray:
        """The position of each token in the order of devices, [T]."""
        inside = np.arange(self.size)
        return np.concatenate([c * self.size + inside for own in self.chunks for c in own])


@dataclasses.dataclass(frozen=True)
class Visits:
    """Which pairs of blocks each device visits while keys go around.

    Attributes:
      offsets: device d works on the keys of device d − offset, offset by offset.
      pairs_dopj: (query block, key block, whether it is a pair) [devices, offsets, pairs, 3].
      starts_doc: position of the first token of each chunk of keys, [devices, offsets, chunks].
    """

    offsets: tuple[int, ...]
    pairs_dopj: np.ndarray
    starts_doc: np.ndarray

    @property
    def work_do(self) -> np.ndarray:
        """Pairs of blocks that each device visits at each offset."""
        return self.pairs_dopj[..., 2].sum(axis=-1)


@dataclasses.dataclass(frozen=True)
class _Options:
    """Static options of the ring."""

    ring: Ring
    offsets: tuple[int, ...]
    full: bool
    window: int
    soft_cap: float
    block: int
    group: int


def balanced_chunks(devices: int) -> tuple[tuple[int, ...], ...]:
    """Chunks of each device, such that causal attention costs all of them the same.

    >>> balanced_chunks(2)
    ((0, 3), (1, 2))
    """
    return tuple((d, 2 * devices - 1 - d) for d in range(devices))


@functools.lru_cache(maxsize=64)
def make_visits(ring: Ring, block: int, window: int) -> Visits:
    """The pairs of blocks in which some query sees some key; offsets without any are left out."""
    devices = len(ring.chunks)
    blocks = [_spans(ring, own, block) for own in ring.chunks]
    found: dict[int, list] = {}
    for offset in range(devices):
        rows = [_seen(blocks[d], blocks[(d - offset) % devices], window) for d in range(devices)]
        if any(rows):
            found[offset] = rows
    most = max(len(pairs) for rows in found.values() for pairs in rows)
    pairs_dopj = np.zeros((devices, len(found), most, 3), np.int32)
    for o, rows in enumerate(found.values()):
        for d, pairs in enumerate(rows):
            for p, (i, j) in enumerate(pairs):
                pairs_dopj[d, o, p] = i, j, 1
    sources = [[(d - offset) % devices for offset in found] for d in range(devices)]
    return Visits(tuple(found), pairs_dopj, np.array(ring.chunks)[sources] * ring.size)


def _spans(ring: Ring, own: tuple[int, ...], block: int) -> list[tuple[int, int]]:
    """First and last position of each block of a device."""
    return [
        (c * ring.size + s, c * ring.size + min(s + block, ring.size) - 1)
        for c in own
        for s in range(0, ring.size, block)
    ]


def _seen(queries: list, keys: list, window: int) -> list[tuple[int, int]]:
    return [
        (i, j)
        for i, (q_first, q_last) in enumerate(queries)
        for j, (k_first, k_last) in enumerate(keys)
        if q_last >= k_first and (not window or q_first - k_last < window)
    ]


def ring_block(ring: Ring) -> int:
    """Tokens of a block: equal parts of a chunk, of at most blockwise attention's size."""
    return -(-ring.size // -(-ring.size // BLOCK))


def ring_attention(
    q_BLNH: jax.Array,
    k_BLKH: jax.Array,
    v_BLKH: jax.Array,
    tables: tuple[jax.Array, jax.Array],
    *,
    ring: Ring,
    segment_ids_BL: jax.Array | None = None,
    scale: float | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
) -> jax.Array:
    """softmax(cap(q·kᵀ·scale) + mask)·v of this device's L tokens with those of all devices.

    Arguments are those of `blockwise_attention`, sharded along the sequence, and besides:

    Args:
      tables: `pairs_dopj` and `starts_doc` of `make_visits(ring, ring_block(ring), window)`, this
        device's row of each: [1, offsets, …].
      ring: how the whole sequence lies.
    """
    B, L, N, H = q_BLNH.shape
    K = k_BLKH.shape[2]
    G, chunks = N // K, len(ring.chunks[0])
    block = ring_block(ring)
    visits = make_visits(ring, block, window)
    full = bool(visits.pairs_dopj[..., 2].all())
    options = _Options(ring, visits.offsets, full, window, soft_cap, block, G)
    cut = functools.partial(_chunks_to_blocks, chunks=chunks, block=block)
    q_BLNH = q_BLNH * (1 / math.sqrt(H) if scale is None else scale)
    q_nBKrH = cut(q_BLNH.reshape(B, L, K, G * H)).reshape(-1, B, K, block * G, H)
    kv_2nBKsH = jnp.stack([cut(k_BLKH), cut(v_BLKH)])
    ids_nBs = None
    if segment_ids_BL is not None:
        ids_nBs = cut(segment_ids_BL[:, :, None, None])[:, :, 0, :, 0]
    o_nBKrH = _attend(options, q_nBKrH, kv_2nBKsH, ids_nBs, tables)
    o_cBmsKGH = jnp.transpose(o_nBKrH.reshape(chunks, -1, B, K, block, G, H), (0, 2, 1, 4, 3, 5, 6))
    o_cBsNH = o_cBmsKGH.reshape(chunks, B, -1, N, H)[:, :, : ring.size]
    return jnp.moveaxis(o_cBsNH, 0, 1).reshape(B, L, N, H)


def _chunks_to_blocks(x_BLKH: jax.Array, *, chunks: int, block: int) -> jax.Array:
    """[n, B, K, block, H], each chunk filled up to whole blocks."""
    B, L, K, H = x_BLKH.shape
    x_BcsKH = x_BLKH.reshape(B, chunks, L // chunks, K, H)
    x_cmBKsH = jax.vmap(functools.partial(to_blocks, block=block), in_axes=1)(x_BcsKH)
    return x_cmBKsH.reshape(-1, B, K, block, H)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(
    options: _Options,
    q_nBKrH: jax.Array,
    kv_2nBKsH: jax.Array,
    ids_nBs: jax.Array | None,
    tables: tuple[jax.Array, jax.Array],
) -> jax.Array:
    return _attend_forward(options, q_nBKrH, kv_2nBKsH, ids_nBs, tables)[0]


def _attend_forward(
    options: _Options,
    q_nBKrH: jax.Array,
    kv_2nBKsH: jax.Array,
    ids_nBs: jax.Array | None,
    tables: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, tuple]:
    """The output, and what the backward pass needs: the logarithm of each row's sum."""
    n, B, K, r, H = q_nBKrH.shape
    tables, q_nBKrH = tied(tables, q_nBKrH)
    running = (
        jnp.full((n, B, K, r, 1), MASKED),
        jnp.zeros((n, B, K, r, 1)),
        jnp.zeros((n, B, K, r, H)),
    )
    travelling = kv_2nBKsH, ids_nBs
    for o in range(len(options.offsets)):
        (k_nBKsH, v_nBKsH), ids_k_nBs = travelling
        if o + 1 < len(options.offsets):
            travelling = _send(options, travelling, o, o + 1)
        at = _positions(options, tables, 0), _positions(options, tables, o)

        def visit(running: tuple, i: jax.Array, j: jax.Array) -> tuple:
            ids = _of_pair(ids_nBs, ids_k_nBs, i, j)  # noqa: B023
            where = at[0][i], at[1][j]  # noqa: B023
            scores_BKrs, _ = block_scores(options, q_nBKrH[i], k_nBKsH[j], where, ids)  # noqa: B023
            new = absorb(tuple(x[i] for x in running), scores_BKrs, v_nBKsH[j])  # noqa: B023
            return tuple(x.at[i].set(y) for x, y in zip(running, new, strict=True))

        running = _visit_all(options, tables, o, visit, running)
    max_, sum_, out = running
    o_nBKrH = (out / sum_).astype(q_nBKrH.dtype)
    return o_nBKrH, (q_nBKrH, kv_2nBKsH, ids_nBs, tables, o_nBKrH, max_ + jnp.log(sum_))


def _attend_backward(options: _Options, saved: tuple, do_nBKrH: jax.Array) -> tuple:
    """As in `blockwise_attention`; dK and dV go around with K and V, and home."""
    q_nBKrH, kv_2nBKsH, ids_nBs, tables, o_nBKrH, lse_nBKr1 = saved
    # Else the compiler may keep what was received in the forward pass, which is the whole sequence.
    kv_2nBKsH, do_nBKrH = jax.lax.optimization_barrier((kv_2nBKsH, do_nBKrH))
    drop_nBKr1 = jnp.sum(
        do_nBKrH.astype(jnp.float32) * o_nBKrH.astype(jnp.float32), axis=-1, keepdims=True
    )
    dq_nBKrH = jnp.zeros(q_nBKrH.shape)
    dkv_2nBKHs = jnp.zeros((*kv_2nBKsH.shape[:-2], *kv_2nBKsH.shape[:-3:-1]))
    travelling = kv_2nBKsH, ids_nBs
    for o in range(len(options.offsets)):
        (k_nBKsH, v_nBKsH), ids_k_nBs = travelling
        if o + 1 < len(options.offsets):
            travelling = _send(options, travelling, o, o + 1)
        at = _positions(options, tables, 0), _positions(options, tables, o)

        def visit(sums: tuple, i: jax.Array, j: jax.Array) -> tuple:
            dq_nBKrH, dkv_2nBKHs = sums
            rows = q_nBKrH[i], do_nBKrH[i], lse_nBKr1[i], drop_nBKr1[i]
            k_BKsH, v_BKsH = k_nBKsH[j], v_nBKsH[j]  # noqa: B023
            ids = _of_pair(ids_nBs, ids_k_nBs, i, j)  # noqa: B023
            scores = block_scores(options, rows[0], k_BKsH, (at[0][i], at[1][j]), ids)  # noqa: B023
            dq_BKrH, dk_BKHs, dv_BKHs = block_gradients(rows, k_BKsH, v_BKsH, scores)
            dkv_2nBKHs = dkv_2nBKHs.at[:, j].add(jnp.stack([dk_BKHs, dv_BKHs]))
            return dq_nBKrH.at[i].add(dq_BKrH), dkv_2nBKHs

        sums = _visit_all(options, tables, o, visit, (dq_nBKrH, dkv_2nBKHs))
        dq_nBKrH, dkv_2nBKHs = sums[0], _send(options, sums[1], o, o + 1)
    dkv_2nBKsH = jnp.swapaxes(dkv_2nBKHs, -1, -2)
    return dq_nBKrH.astype(q_nBKrH.dtype), dkv_2nBKsH.astype(kv_2nBKsH.dtype), None, None


_attend.defvjp(_attend_forward, _attend_backward)


def _of_pair(
    mine_nBs: jax.Array | None, theirs_nBs: jax.Array | None, i: jax.Array, j: jax.Array
) -> tuple[jax.Array, jax.Array] | None:
    """Segments of one query block and one key block."""
    if mine_nBs is None or theirs_nBs is None:
        return None
    return mine_nBs[i], theirs_nBs[j]


def _visit_all(
    options: _Options, tables: tuple[jax.Array, jax.Array], o: int, visit: Callable, carry: tuple
) -> tuple:
    """`visit(carry, query block, key block)` for this device's pairs at one offset."""

    def one(carry: tuple, row: jax.Array) -> tuple[tuple, None]:
        i, j, real = row
        if options.full:
            return visit(carry, i, j), None
        return jax.lax.cond(real > 0, lambda: visit(carry, i, j), lambda: carry), None

    return jax.lax.scan(one, carry, tables[0][0, o])[0]


def _positions(options: _Options, tables: tuple[jax.Array, jax.Array], o: int) -> jax.Array:
    """Positions of the tokens of each block that are with this device at one offset, [n, s]."""
    inside_s = np.arange(-(-options.ring.size // options.block) * options.block)
    starts_c = tables[1][0, o]
    at_cs = jnp.where(inside_s < options.ring.size, starts_c[:, None] + inside_s, UNSEEN)
    return at_cs.reshape(-1, options.block)


def _send(options: _Options, tree: Any, one: int, two: int) -> Any:
    """What is with each device at one offset, as it is at the other; home after the last."""
    devices = len(options.ring.chunks)
    offsets = (*options.offsets, 0)
    to = [(d, (d + offsets[two] - offsets[one]) % devices) for d in range(devices)]
    if offsets[two] == offsets[one]:
        return tree
    return jax.tree.map(lambda x: jax.lax.ppermute(x, options.ring.axis, to), tree)
