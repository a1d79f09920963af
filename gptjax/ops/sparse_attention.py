"""Sparse causal attention by blocks: only the keys of a pattern are multiplied, none is masked.

Queries are split into `n` blocks of `a` tokens. Each pattern names the parts of the keys that a
block meets: its own block, the one before, a column of the text, summaries of earlier blocks. The
scores of all parts share one softmax. `S` are the keys of a part. Plain autodiff, no loops.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gptjax.ops.attention import MASKED
from gptjax.ops.bidirectional_attention import bidirectional_attention
from gptjax.ops.masked_attention import masked_attention

Rule = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class _Part:
    """Keys that the queries meet, in one of four layouts.

    Attributes:
      axes: einsum's letters of all the keys' axes but their width: "bnsk" keys of each block of
        queries, "bask" of each place in a block, "bsk" the same for all queries, "bskg" the same
        for all queries of a head.
      k, v: keys [..., H] and values [..., U].
      positions: of the keys, int, with a batch of one; as the keys, but with heads only where the
        queries' heads differ ("bskg").
      ids: segment numbers of the keys, or None.
      rule: which pairs of positions (query, key) are visible.
    """

    axes: str
    k: jax.Array
    v: jax.Array
    positions: jax.Array
    ids: jax.Array | None
    rule: Rule

    def spread(self, x: jax.Array) -> jax.Array:
        """One number a key, as [B, n, K, G, a, S] with ones where the layout has no axis."""
        if self.axes == "bskg":
            return jnp.moveaxis(x, 1, -1)[:, None, :, :, None]
        if self.axes == "bnsk":
            return x[:, :, None, None, None]
        return x[:, None, None, None] if self.axes == "bask" else x[:, None, None, None, None]


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Queries, keys, values and segment numbers split into blocks, padded at the end."""

    q_BnaKGH: jax.Array
    k_BnaKH: jax.Array
    v_BnaKU: jax.Array
    positions_1na: jax.Array
    ids_Bna: jax.Array | None

    def part(self, axes: str, take: Callable[[jax.Array], jax.Array], rule: Rule) -> _Part:
        """The keys that `take` selects from an array of shape [B, n, a, ...]."""
        ids = None if self.ids_Bna is None else take(self.ids_Bna)
        k, v, positions = (take(x) for x in (self.k_BnaKH, self.v_BnaKU, self.positions_1na))
        return _Part(axes, k, v, positions, ids, rule)


def strided_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    stride: int,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """Attention to the last `stride` tokens and to every stride-th one before (Child et al., 2019).

    Token i sees j ≤ i with i − j ≤ l or (i − j) mod l = 0: the union of the paper's two sets A⁽¹⁾
    and A⁽²⁾ (section 4.3), its "merged" head. A query meets 2l + T/l keys, O(T·√T) for l = √T.

    Args:
      q_BTNH: queries; head n uses the keys and values of head n // (N/K).
      stride: the paper's l.
      segment_ids_BT: where given, a query sees only keys of its own segment.
      options: `scale`, `soft_cap`, `slopes_N`, `sinks_N` as in `masked_attention`.
    """
    blocks = _cut(q_BTNH, k_BTKH, v_BTKU, segment_ids_BT, stride)
    near = blocks.part("bnsk", _with_previous, lambda i, j: (j <= i) & (i - j <= stride))
    far = blocks.part("bask", lambda x: jnp.swapaxes(x, 1, 2), lambda i, j: i - j > stride)
    return _attend(blocks, [near, far], q_BTNH, **options)


def fixed_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    block: int,
    summary: int,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """Attention within a block, and to the last tokens of every earlier one (Child et al., 2019).

    Token i sees j ≤ i with ⌊j/l⌋ = ⌊i/l⌋ or j mod l ≥ l − c: the union of the paper's two sets
    (section 4.3). A query meets l + c·T/l keys.

    Args:
      block, summary: the paper's l and c.
      segment_ids_BT, options: as in `strided_attention`.
    """
    blocks = _cut(q_BTNH, k_BTKH, v_BTKU, segment_ids_BT, block)
    own = blocks.part("bnsk", lambda x: x, lambda i, j: j <= i)
    last = blocks.part("bsk", lambda x: _flat(x[:, :, block - summary :]), _in_earlier(block))
    return _attend(blocks, [own, last], q_BTNH, **options)


def blocksparse_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    block: int,
    local_blocks: int,
    stride: int,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """Attention to the last blocks and to every stride-th one before, other ones for each head.

    Abdin et al., "Phi-3 Technical Report" (2024), section 2, as its released code has it: head h
    and token i see j ≤ i with ⌊i/a⌋ − ⌊j/a⌋ < local_blocks, or (⌊j/a⌋ + h·s + 1) mod stride = 0,
    where s = max(1, ⌊stride/N⌋). A query meets local_blocks·a + T/stride keys.

    Args:
      block: tokens of a block, a above.
      local_blocks: blocks that all heads see, the query's own included.
      stride: a head sees one of so many of the earlier blocks.
      segment_ids_BT, options: as in `strided_attention`.
    """
    blocks = _cut(q_BTNH, k_BTKH, v_BTKU, segment_ids_BT, block)
    n, K, G = (blocks.q_BnaKGH.shape[axis] for axis in (1, 3, 4))

    def is_near(i: jax.Array, j: jax.Array) -> jax.Array:
        return (j <= i) & (i // block - j // block < local_blocks)

    def is_far(i: jax.Array, j: jax.Array) -> jax.Array:
        return i // block - j // block >= local_blocks

    before = min(local_blocks, n) - 1
    parts = [blocks.part("bnsk", lambda x: _with_before(x, before), is_near)]
    if n > local_blocks:
        seen_KG = seen_blocks(K * G, stride).reshape(K, G)
        parts.append(blocks.part("bskg", lambda x: _of_each_head(x, seen_KG, stride), is_far))
    return _attend(blocks, parts, q_BTNH, **options)


def seen_blocks(heads: int, stride: int) -> np.ndarray:
    """Of each `stride` blocks the one that each head sees from afar (`blocksparse_attention`).

    >>> seen_blocks(4, 3).tolist(), seen_blocks(2, 8).tolist()
    ([2, 1, 0, 2], [7, 3])
    """
    return (-np.arange(heads) * max(1, stride // heads) - 1) % stride


def windowed_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    *,
    window: int,
    global_tokens: int = 0,
    causal: bool = True,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """Attention to a window and to the first tokens of the text (Beltagy et al., 2020, Longformer).

    A query meets 2·window + global_tokens keys, whatever T is; `global_tokens=0` is GPT-3's locally
    banded attention. The queries of the global tokens see no more than others here: see
    `longformer_attention`.

    Args:
      window: a query sees itself and the window − 1 tokens before it; where not causal, as many
        after it, too (half of the paper's w, which counts both sides, plus one).
      global_tokens: tokens at the beginning that all queries see.
      causal: the future is masked; the paper's form for encoders otherwise.
      segment_ids_BT, options: as in `strided_attention`.
    """
    blocks = _cut(q_BTNH, k_BTKH, v_BTKU, segment_ids_BT, min(window, q_BTNH.shape[1]))
    T, g = q_BTNH.shape[1], global_tokens

    def near(i: jax.Array, j: jax.Array) -> jax.Array:
        after = i if causal else i + window - 1
        return (j <= after) & (i - j < window) & (j >= g) & (j < T)

    def first(i: jax.Array, j: jax.Array) -> jax.Array:
        return (j <= i) if causal else (j >= 0) & (i >= 0)

    parts = [blocks.part("bnsk", _with_previous if causal else _with_neighbours, near)]
    if g:
        parts.append(blocks.part("bsk", lambda x: _flat(x)[:, : min(g, T)], first))
    return _attend(blocks, parts, q_BTNH, **options)


def longformer_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    global_q_BgNH: Float[Array, "B g N H"],
    global_k_BSKH: Float[Array, "B S K H"],
    global_v_BSKU: Float[Array, "B S K U"],
    *,
    window: int,
    causal: bool = True,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """`windowed_attention` whose first `g` tokens see everything, by projections of their own.

    Beltagy et al. (2020), section 3.1. Causally those tokens see one another only, so that `S` may
    be g; an encoder's see all T.

    Args:
      global_q_BgNH, global_k_BSKH, global_v_BSKU: projections for the rows of the global tokens.
      window, causal, segment_ids_BT, options: as in `windowed_attention`; without `causal` the rows
        of global tokens take `scale` alone.
    """
    g = global_q_BgNH.shape[1]
    o_BTNU = windowed_attention(
        q_BTNH,
        k_BTKH,
        v_BTKU,
        window=window,
        global_tokens=g,
        causal=causal,
        segment_ids_BT=segment_ids_BT,
        **options,
    )
    if causal:
        ids_Bg = None if segment_ids_BT is None else segment_ids_BT[:, :g]
        k_BgKH, v_BgKU = global_k_BSKH[:, :g], global_v_BSKU[:, :g]
        rows_BgNU = masked_attention(
            global_q_BgNH, k_BgKH, v_BgKU, segment_ids_BT=ids_Bg, **options
        )
    else:
        scale = options.get("scale")
        rows_BgNU = bidirectional_attention(
            global_q_BgNH, global_k_BSKH, global_v_BSKU, scale=scale
        )
    return jnp.concatenate([rows_BgNU, o_BTNU[:, g:]], axis=1)


def linformer_causal_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    key_summary_aR: Float[Array, "a R"],
    value_summary_aR: Float[Array, "a R"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    **options,
) -> Float[Array, "B T N U"]:
    """Exact attention within a block, and to `R` learned summaries of every earlier block.

    Linformer's projections E and F over positions (Wang et al., 2020, equation 7) mix all T keys
    into each summary, so that every query would see the future; here they mix one finished block at
    a time, with the same matrices for all blocks. A query meets a + R·T/a keys: O(T·√T) with blocks
    of √T, and not the paper's O(T).

    Args:
      key_summary_aR, value_summary_aR: E and F of one block of `a` tokens, the same for all heads.
      segment_ids_BT: where given, a query sees only keys of its own segment; a block's summary is
        of those tokens that share the segment of its last one.
      options: `scale`, `soft_cap`, `sinks_N` as in `masked_attention`.
    """
    block, R = key_summary_aR.shape
    blocks = _cut(q_BTNH, k_BTKH, v_BTKU, segment_ids_BT, block)
    own = blocks.part("bnsk", lambda x: x, lambda i, j: j <= i)
    k, v, last_Bn1 = blocks.k_BnaKH, blocks.v_BnaKU, None
    if blocks.ids_Bna is not None:
        last_Bn1 = blocks.ids_Bna[:, :, -1:]
        same = (blocks.ids_Bna == last_Bn1)[..., None, None]
        k, v = k * same, v * same
    k_BSKH, v_BSKU = (
        _flat(jnp.einsum("bnakh,ar->bnrkh", x, w_aR.astype(x.dtype)))
        for x, w_aR in ((k, key_summary_aR), (v, value_summary_aR))
    )
    ends_1n1 = blocks.positions_1na[:, :, -1:]
    positions_1S = _flat(jnp.repeat(ends_1n1, R, axis=2))
    ids_BS = None if last_Bn1 is None else _flat(jnp.repeat(last_Bn1, R, axis=2))
    far = _Part("bsk", k_BSKH, v_BSKU, positions_1S, ids_BS, _in_earlier(block))
    return _attend(blocks, [own, far], q_BTNH, **options)


def linformer_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    key_summary_TR: Float[Array, "T R"],
    value_summary_TR: Float[Array, "T R"],
    *,
    scale: float | None = None,
) -> Float[Array, "B T N U"]:
    """softmax(q·(Eᵀk)ᵀ/√H)·(Fᵀv) as published (Wang et al., 2020, equation 7): O(T·R).

    For encoders only: every query sees every token through the summaries, and no mask can undo it.
    A causal model takes `linformer_causal_attention`.

    Args:
      key_summary_TR, value_summary_TR: the projections E and F from T positions to R summaries, the
        same for all heads; the identity gives dense attention without a mask.
      scale: multiplies the scores; 1/√H by default.
    """
    k_BRKH = jnp.einsum("btkh,tr->brkh", k_BTKH, key_summary_TR.astype(k_BTKH.dtype))
    v_BRKU = jnp.einsum("btku,tr->brku", v_BTKU, value_summary_TR.astype(v_BTKU.dtype))
    return bidirectional_attention(q_BTNH, k_BRKH, v_BRKU, scale=scale)


def _cut(
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKU: jax.Array,
    segment_ids_BT: jax.Array | None,
    block: int,
) -> _Blocks:
    B, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    n = -(-T // block)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, n * block - T)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(x.shape[0], n, block, *x.shape[2:])

    q_BnaKGH = cut(q_BTNH).reshape(B, n, block, K, N // K, H)
    positions_1na = jnp.arange(n * block).reshape(1, n, block)
    ids_Bna = None if segment_ids_BT is None else cut(segment_ids_BT)
    return _Blocks(q_BnaKGH, cut(k_BTKH), cut(v_BTKU), positions_1na, ids_Bna)


def _flat(x: jax.Array) -> jax.Array:
    """[B, n, a, ...] as [B, n·a, ...]."""
    return x.reshape(x.shape[0], -1, *x.shape[3:])


def _moved(x: jax.Array, blocks: int) -> jax.Array:
    """The block so many before each one; positions beyond the text are far off."""
    far = -(2**30) if jnp.issubdtype(x.dtype, jnp.integer) else 0
    beyond = jnp.full_like(x[:, : abs(blocks)], far)
    both = [beyond, x[:, :-blocks]] if blocks > 0 else [x[:, -blocks:], beyond]
    return jnp.concatenate(both, axis=1)


def _with_before(x: jax.Array, blocks: int) -> jax.Array:
    """Each block behind so many before it."""
    return jnp.concatenate([*(_moved(x, m) for m in range(blocks, 0, -1)), x], axis=2)


def _with_previous(x: jax.Array) -> jax.Array:
    return _with_before(x, 1)


def _with_neighbours(x: jax.Array) -> jax.Array:
    return jnp.concatenate([_moved(x, 1), x, _moved(x, -1)], axis=2)


def _of_each_head(x: jax.Array, seen_KG: np.ndarray, stride: int) -> jax.Array:
    """The blocks with a head's remainder by `stride`, as [B, S, K, G, ...].

    Args:
      x: [B, n, a, K, ...], or positions and segment numbers [B, n, a].
    """
    K, G = seen_KG.shape
    if x.ndim == 3:
        x = jnp.broadcast_to(x[..., None], (*x.shape, K))
    B, n, a = x.shape[:3]
    x = jnp.pad(x, ((0, 0), (0, -n % stride)) + ((0, 0),) * (x.ndim - 2), mode="edge")
    x = jnp.moveaxis(x.reshape(B, -1, stride, a, *x.shape[3:]), 2, 4)  # [B, m, a, K, stride, ...]
    index = jnp.asarray(seen_KG).reshape(1, 1, 1, K, G, *(1,) * (x.ndim - 5))
    return _flat(jnp.take_along_axis(x, index, axis=4))


def _in_earlier(block: int) -> Rule:
    return lambda i, j: j // block < i // block


def _attend(
    blocks: _Blocks,
    parts: list[_Part],
    q_BTNH: jax.Array,
    *,
    scale: float | None = None,
    soft_cap: float = 0.0,
    slopes_N: jax.Array | None = None,
    sinks_N: jax.Array | None = None,
) -> jax.Array:
    """One softmax over the keys of all parts, in float32."""
    q_BnaKGH = blocks.q_BnaKGH
    B, n, a, K, G, H = q_BnaKGH.shape
    N, T = q_BTNH.shape[2], q_BTNH.shape[1]
    scale = 1 / math.sqrt(H) if scale is None else scale
    found = []
    for part in parts:
        scores = _dot(f"bnakgh,{part.axes}h->bnkgas", q_BnaKGH, part.k) * scale
        if soft_cap:
            scores = soft_cap * jnp.tanh(scores / soft_cap)
        i, j = _of_queries(blocks.positions_1na), part.spread(part.positions)
        if slopes_N is not None:
            scores = scores - slopes_N.reshape(K, G, 1, 1) * (i - j)
        visible = part.rule(i, j)
        if part.ids is not None and blocks.ids_Bna is not None:
            visible = visible & (_of_queries(blocks.ids_Bna) == part.spread(part.ids))
        found.append(jnp.where(visible, scores, MASKED))
    if sinks_N is not None:
        sinks = sinks_N.astype(jnp.float32).reshape(K, G, 1, 1)
        found.append(jnp.broadcast_to(sinks, (B, n, K, G, a, 1)))
    weights = jax.nn.softmax(jnp.concatenate(found, axis=-1), axis=-1)
    o_BnaKGU, start = jnp.zeros((), jnp.float32), 0
    for part, scores in zip(parts, found, strict=False):
        own = weights[..., start : start + scores.shape[-1]].astype(part.v.dtype)
        o_BnaKGU = o_BnaKGU + _dot(f"bnkgas,{part.axes}u->bnakgu", own, part.v)
        start += scores.shape[-1]
    o_BTNU = o_BnaKGU.reshape(B, n * a, N, -1)[:, :T]
    return o_BTNU.astype(q_BTNH.dtype)


def _of_queries(x_Bna: jax.Array) -> jax.Array:
    """One number a query, as [B, n, K, G, a, S] with ones where it has no axis."""
    return x_Bna[:, :, None, None, :, None]


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
