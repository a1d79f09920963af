"""Reformer's attention within buckets of a locality-sensitive hash (Kitaev et al., 2020).

Queries are keys: k = q/|q|. Random rotations give each token a bucket; tokens are sorted by bucket
and then by position, split into `n` chunks of `c`; a chunk attends to itself and the one before.
`R` are independent rounds of hashing; `S` are the 2c keys of a chunk.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from gptjax.ops.attention import MASKED

SELF = -1e5  # score of a token with itself: it counts only where there is nothing else


def bucket_factors(buckets: int) -> tuple[int, ...]:
    """Even numbers whose product is about `buckets`: two of them where one would be large.

    The hash costs their sum a token, not their product (as the authors' code does it).

    >>> bucket_factors(6), bucket_factors(64), bucket_factors(500)
    ((6,), (8, 8), (24, 22))
    """
    if buckets <= 16:
        return (_even(buckets),)
    first = _even(int(np.ceil(np.sqrt(buckets))))
    return first, _even(-(-buckets // first))


@functools.lru_cache(maxsize=64)
def hash_rotations(
    heads: int, head_dim: int, rounds: int, factors: tuple[int, ...], seed: int = 0
) -> Float[np.ndarray, "heads head_dim rounds half"]:
    """Gaussian rotations for `lsh_attention`, half a bucket a column."""
    shape = (heads, head_dim, rounds, sum(factors) // 2)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def lsh_attention(
    q_BTNH: Float[Array, "B T N H"],
    v_BTNU: Float[Array, "B T N U"],
    rotations_NHRh: Float[Array, "N H R h"],
    *,
    factors: tuple[int, ...],
    chunk: int,
    published: bool = False,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T N U"]:
    """Causal softmax(q·k̂)·v over the keys that share a query's chunk in any round.

    In a round a query sees itself and the `chunk` tokens of its own bucket that came last: whether
    it sees one depends on what lies between them, and on nothing later. In the published form it
    sees its whole chunk and the one before (of the first, the last: the authors' code goes round),
    whatever their buckets, if not later in the text. There the borders of the chunks move with
    tokens that come after the query, and so does the output: fit for encoders and for comparison.

    A key that several rounds show counts once (the paper's equation 5, N_ij), and a token sees
    itself only where it sees nothing else.

    Args:
      q_BTNH: queries, and by their directions keys.
      rotations_NHRh: from `hash_rotations`, for as many rounds as are wanted.
      factors: buckets are numbered by pairs of hashes of these many values; `(2,)`, `(8, 8)`.
      chunk: tokens of a chunk.
      segment_ids_BT: where given, a query sees only keys of its own segment.
    """
    T, n = q_BTNH.shape[1], -(-q_BTNH.shape[1] // chunk)
    pad = ((0, 0), (0, n * chunk - T))
    q_BNTH, v_BNTU = (
        jnp.swapaxes(jnp.pad(x, (*pad, (0, 0), (0, 0))), 1, 2) for x in (q_BTNH, v_BTNU)
    )
    buckets_BNRT = _buckets(q_BTNH, rotations_NHRh, factors)
    buckets_BNRT = jnp.pad(buckets_BNRT, ((0, 0), (0, 0), *pad), constant_values=2**30)
    order_BNRT = jnp.argsort(buckets_BNRT, axis=-1, stable=True)
    rank_BNRT = jnp.argsort(order_BNRT, axis=-1)
    chunks = _Chunks(order_BNRT, chunk)

    def shown(round_: int) -> jax.Array:
        """Whether that round shows the pairs of every round's chunks to each other."""
        rank = chunks.pairs(rank_BNRT[:, :, round_])
        if published:
            return (rank[0] // chunk - rank[1] // chunk) % n <= min(1, n - 1)
        i, j = chunks.pairs(buckets_BNRT[:, :, round_])
        return (i == j) & (rank[0] >= rank[1]) & (rank[0] - rank[1] <= chunk)

    each = [shown(round_) for round_ in range(order_BNRT.shape[2])]
    times = sum(one.astype(jnp.float32) for one in each)
    i, j = chunks.pairs(jnp.broadcast_to(jnp.arange(n * chunk), q_BNTH.shape[:3]))
    here = jnp.stack([one[:, :, round_] for round_, one in enumerate(each)], axis=2) & (j <= i)
    if segment_ids_BT is not None:
        ids_BNT = jnp.broadcast_to(jnp.pad(segment_ids_BT, pad)[:, None], q_BNTH.shape[:3])
        one, two = chunks.pairs(ids_BNT)
        here = here & (one == two)
    q_BNRncH = chunks.vectors(q_BNTH)
    k_BNRnSH = chunks.with_previous(_direction(q_BNRncH))
    v_BNRnSU = chunks.with_previous(chunks.vectors(v_BNTU))
    scores = _dot("bnrxch,bnrxsh->bnrxcs", q_BNRncH, k_BNRnSH)
    scores = jnp.where(i == j, SELF, scores - jnp.log(jnp.maximum(times, 1.0)))
    scores = jnp.where(here, scores, MASKED)
    weight = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    e = jnp.exp(scores - weight).astype(v_BTNU.dtype)
    o_BNRTU, weight_BNRT1 = (
        jnp.take_along_axis(x.reshape(*rank_BNRT.shape, -1), rank_BNRT[..., None], axis=3)
        for x in (_dot("bnrxcs,bnrxsu->bnrxcu", e, v_BNRnSU), weight)
    )
    o_BNTU = jnp.sum(o_BNRTU * jax.nn.softmax(weight_BNRT1, axis=2), axis=2)
    return jnp.swapaxes(o_BNTU[:, :, :T], 1, 2).astype(q_BTNH.dtype)


def lsh_buckets(
    q_BTNH: Float[Array, "B T N H"],
    rotations_NHRh: Float[Array, "N H R h"],
    factors: tuple[int, ...],
) -> Int[Array, "B N R T"]:
    """The bucket of each token in every round."""
    return _buckets(q_BTNH, rotations_NHRh, factors)


def lsh_cached_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BNSH: Float[Array, "B N S H"],
    v_BNSU: Float[Array, "B N S U"],
    buckets_BTNR: Int[Array, "B T N R"],
    buckets_BNSR: Int[Array, "B N S R"],
    positions_BT: Int[Array, "B T"],
    *,
    chunk: int,
) -> Float[Array, "B T N U"]:
    """`lsh_attention` of further tokens of a text, all of whose tokens are in slots of a cache.

    Args:
      k_BNSH: queries of the tokens at the positions 0…S−1, these included.
      buckets_BNSR: of the same tokens.
    """
    j_S = jnp.arange(k_BNSH.shape[2])
    i_BT1 = positions_BT[:, :, None]
    there = (j_S <= i_BT1)[:, None, :, :, None]
    same_BNTSR = (
        jnp.moveaxis(buckets_BTNR, 1, 2)[:, :, :, None] == buckets_BNSR[:, :, None]
    ) & there
    upto = jnp.cumsum(same_BNTSR, axis=3)
    shown = same_BNTSR & (upto[:, :, :, -1:] - upto <= chunk)
    scores = _dot("btnh,bnsh->bnts", q_BTNH, _direction(k_BNSH))
    # A token sees itself in every round, and other keys count once however often they are shown.
    alone = SELF + np.log(shown.shape[-1])
    scores = jnp.where((j_S == i_BT1)[:, None], alone, scores)
    scores = jnp.where(jnp.any(shown, axis=-1), scores, MASKED)
    weights = jax.nn.softmax(scores, axis=-1).astype(v_BNSU.dtype)
    return _dot("bnts,bnsu->btnu", weights, v_BNSU).astype(q_BTNH.dtype)


@dataclasses.dataclass(frozen=True)
class _Chunks:
    """The text in the order of every round's buckets, split into chunks.

    Attributes:
      order_BNRT: the token that stands in each place.
      chunk: tokens of a chunk, of which T is a multiple.
    """

    order_BNRT: jax.Array
    chunk: int

    def vectors(self, x_BNTH: jax.Array) -> jax.Array:
        """[B, N, R, n, c, H]."""
        x_BNRTH = jnp.take_along_axis(x_BNTH[:, :, None], self.order_BNRT[..., None], axis=3)
        return x_BNRTH.reshape(*self.order_BNRT.shape[:3], -1, self.chunk, x_BNTH.shape[-1])

    def with_previous(self, x: jax.Array) -> jax.Array:
        """[B, N, R, n, S, ...]: the chunk before, that of the first being the last, and its own."""
        if x.shape[3] == 1:
            return x
        return jnp.concatenate([jnp.roll(x, 1, axis=3), x], axis=4)

    def pairs(self, x_BNT: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A number of every token, as queries [B, N, R, n, c, 1] and as keys [B, N, R, n, 1, S]."""
        x_BNRnc1 = self.vectors(x_BNT[..., None])
        return x_BNRnc1, jnp.swapaxes(self.with_previous(x_BNRnc1), 4, 5)


def _buckets(q_BTNH: jax.Array, rotations_NHRh: jax.Array, factors: tuple[int, ...]) -> jax.Array:
    """[B, N, R, T]: the largest of each factor's rotated columns and their negatives."""
    q_BTNH = jax.lax.stop_gradient(q_BTNH).astype(jnp.float32)
    turned = jnp.einsum("btnh,nhrm->bnrtm", q_BTNH, jnp.asarray(rotations_NHRh))
    buckets, start, unit = jnp.zeros((), jnp.int32), 0, 1
    for factor in factors:
        half = turned[..., start : start + factor // 2]
        buckets += unit * jnp.argmax(jnp.concatenate([half, -half], axis=-1), axis=-1)
        start, unit = start + factor // 2, unit * factor
    return buckets


def _direction(q: jax.Array) -> jax.Array:
    """q/|q|, with the authors' 1e-6 under the root of the mean square."""
    x = q.astype(jnp.float32)
    H = q.shape[-1]
    norm = jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-6) / np.sqrt(H)
    return (x * norm).astype(q.dtype)


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)


def _even(number: int) -> int:
    return max(2, number + number % 2)
