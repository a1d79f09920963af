"""Reformer's attention within buckets of a locality-sensitive hash (Kitaev et al., 2020).

Queries are keys: k = q/|q|. Random rotations give each token a bucket; tokens are sorted by bucket
and then by position, cut into `n` chunks of `c`, and each chunk looks at itself and the one before.
`R` are independent rounds of hashing; `S` are the 2c keys of a chunk.
"""

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
    B, T, N, _ = q_BTNH.shape
    R, U = rotations_NHRh.shape[2], v_BTNU.shape[-1]
    n = -(-T // chunk)
    pad = ((0, 0), (0, 0), (0, n * chunk - T))
    q_BNTH = jnp.pad(jnp.swapaxes(q_BTNH, 1, 2), (*pad, (0, 0)))
    v_BNTU = jnp.pad(jnp.swapaxes(v_BTNU, 1, 2), (*pad, (0, 0)))
    buckets_BNRT = _buckets(q_BTNH, rotations_NHRh, factors)
    buckets_BNRT = jnp.pad(buckets_BNRT, (*pad[:2], (0, 0), pad[2]), constant_values=2**30)
    order_BNRT = jnp.argsort(buckets_BNRT, axis=-1, stable=True)
    rank_BNRT = jnp.argsort(order_BNRT, axis=-1)

    def in_order(x_BNT: jax.Array) -> jax.Array:
        """One number a token, by chunks of every round: [B, N, R, n, c]."""
        x_BNRT = jnp.broadcast_to(x_BNT[:, :, None], order_BNRT.shape)
        return jnp.take_along_axis(x_BNRT, order_BNRT, axis=3).reshape(B, N, R, n, chunk)

    def vectors_in_order(x_BNTH: jax.Array) -> jax.Array:
        x_BNRTH = jnp.take_along_axis(x_BNTH[:, :, None], order_BNRT[..., None], axis=3)
        return x_BNRTH.reshape(B, N, R, n, chunk, -1)

    def keys_of(x: jax.Array) -> jax.Array:
        """Those of the chunk before and its own."""
        return x if n == 1 else jnp.concatenate([jnp.roll(x, 1, axis=3), x], axis=4)

    def shown(round_: int) -> jax.Array:
        """Whether that round shows the pair to each other, by chunks of every round."""
        rank, bucket = in_order(rank_BNRT[:, :, round_]), in_order(buckets_BNRT[:, :, round_])
        i, j = rank[..., None], keys_of(rank)[..., None, :]
        if published:
            before = (i // chunk - j // chunk) % n
            return before <= min(1, n - 1)
        same = bucket[..., None] == keys_of(bucket)[..., None, :]
        return same & (i >= j) & (i - j <= chunk)

    tokens = in_order(jnp.broadcast_to(jnp.arange(n * chunk), (B, N, n * chunk)))
    i, j = tokens[..., None], keys_of(tokens)[..., None, :]
    each = [shown(round_) for round_ in range(R)]
    times = sum(one.astype(jnp.float32) for one in each)
    here = jnp.stack([each[round_][:, :, round_] for round_ in range(R)], axis=2) & (j <= i)
    if segment_ids_BT is not None:
        ids_BT = jnp.pad(segment_ids_BT, (pad[0], pad[2]))
        ids = in_order(jnp.broadcast_to(ids_BT[:, None], (B, N, n * chunk)))
        here = here & (ids[..., None] == keys_of(ids)[..., None, :])
    q_BNRncH = vectors_in_order(q_BNTH)
    k_BNRnSH = keys_of(_direction(q_BNRncH))
    scores = jnp.einsum(
        "bnrxch,bnrxsh->bnrxcs", q_BNRncH, k_BNRnSH, preferred_element_type=jnp.float32
    )
    scores = jnp.where(i == j, SELF, scores - jnp.log(jnp.maximum(times, 1.0)))
    scores = jnp.where(here, scores, MASKED)
    weight = jax.nn.logsumexp(scores, axis=-1, keepdims=True)
    e = jnp.exp(scores - weight).astype(v_BNTU.dtype)
    o = jnp.einsum(
        "bnrxcs,bnrxsu->bnrxcu", e, keys_of(vectors_in_order(v_BNTU)),
        preferred_element_type=jnp.float32,
    ).reshape(B, N, R, n * chunk, U)  # fmt: skip
    weight = weight.reshape(B, N, R, n * chunk, 1)
    o, weight = (jnp.take_along_axis(x, rank_BNRT[..., None], axis=3) for x in (o, weight))
    o_BNTU = jnp.sum(o * jax.nn.softmax(weight, axis=2), axis=2)[:, :, :T]
    return jnp.swapaxes(o_BNTU, 1, 2).astype(q_BTNH.dtype)


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


def _even(number: int) -> int:
    return max(2, number + number % 2)
