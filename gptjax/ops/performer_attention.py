"""Performer's causal attention through positive random features (Choromanski et al., 2020).

exp(x·y) is the mean over w ~ N(0, I) of φ(x)·φ(y) with φ(x) = exp(w·x − |x|²/2), so that attention
becomes a ratio of sums over the past that a state of F × U numbers carries. `F` are the random
features of a head and `n` chunks of `C` tokens: inside a chunk the pairs are multiplied out, and
between chunks the sums are scanned.
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

CHUNK = 128  # pairs inside a chunk cost C·(F + U) a token, the states between them F·U / C
LARGEST = 60.0  # exponent up to which a key's features stay, so that sums of them are float32


@functools.lru_cache(maxsize=64)
def orthogonal_features(
    heads: int, head_dim: int, count: int, seed: int = 0
) -> Float[np.ndarray, "heads count head_dim"]:
    """Rows w of each head: orthogonal in groups of `head_dim`, each as long as a Gaussian's row.

    The paper's section 3.3 and appendix B.2; every row alone is N(0, I).
    """
    rng = np.random.default_rng(seed)
    groups = -(-count // head_dim)
    rows, upper = np.linalg.qr(rng.standard_normal((heads, groups, head_dim, head_dim)))
    # LAPACK's signs favour one half of the sphere; these make every direction as likely.
    rows = rows * np.sign(np.einsum("...ii->...i", upper))[..., None, :]
    rows = np.swapaxes(rows, 2, 3).reshape(heads, -1, head_dim)[:, :count]
    lengths = np.linalg.norm(rng.standard_normal((heads, count, head_dim)), axis=-1)
    return (rows * lengths[..., None]).astype(np.float32)


def performer_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    features_KFH: Float[Array, "K F H"],
    *,
    scale: float | None = None,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    chunk: int = CHUNK,
) -> Float[Array, "B T N U"]:
    """Σ_{j≤i} φ(q_i)·φ(k_j) v_j / Σ_{j≤i} φ(q_i)·φ(k_j): an estimate of softmax attention.

    Its error falls like 1/√F, and grows with the size of queries and keys. Everything is float32.
    A query's features are divided by the largest of them, which cancels; keys are divided by a
    constant alone, because a maximum over keys would let the future change how the past is rounded.

    Args:
      q_BTNH: queries; head n uses the keys, values and features of head n // (N/K).
      features_KFH: the rows w, from `orthogonal_features`.
      scale: multiplies q·k; 1/√H by default.
      segment_ids_BT: where given, a query sees only keys of its own segment.
      chunk: tokens whose pairs are multiplied out; changes no result but rounding.
    """
    B, T, N, H = q_BTNH.shape
    K, U = v_BTKU.shape[2:]
    C = min(chunk, T)
    n = -(-T // C)
    root = math.sqrt(1 / math.sqrt(H) if scale is None else scale)

    def cut(x: jax.Array) -> jax.Array:
        x = jnp.pad(x, ((0, 0), (0, n * C - T)) + ((0, 0),) * (x.ndim - 2))
        return x.reshape(B, n, C, *x.shape[2:])

    w_KFH = jnp.asarray(features_KFH, jnp.float32)
    q_BnCKGH = cut(q_BTNH).reshape(B, n, C, K, N // K, H).astype(jnp.float32) * root
    k_BnCKH = cut(k_BTKH).astype(jnp.float32) * root
    # A column of ones carries the denominator.
    v_BnCKU = jnp.pad(cut(v_BTKU).astype(jnp.float32), ((0, 0),) * 4 + ((0, 1),), constant_values=1)
    q_BnCKGF = _query_features(q_BnCKGH, w_KFH)
    k_BnCKF = _key_features(k_BnCKH, w_KFH)
    visible = jnp.tril(jnp.ones((C, C), bool))
    ids_BnC = None if segment_ids_BT is None else cut(segment_ids_BT)
    if ids_BnC is not None:
        visible = visible & (ids_BnC[..., :, None] == ids_BnC[..., None, :])[:, :, None, None]
    pairs = jnp.einsum("bnikgf,bnjkf->bnkgij", q_BnCKGF, k_BnCKF) * visible
    sums = jnp.einsum("bnkgij,bnjku->bnikgu", pairs, v_BnCKU)
    before_BnKFU = _states_before(k_BnCKF, v_BnCKU, ids_BnC)
    past = jnp.einsum("bnikgf,bnkfu->bnikgu", q_BnCKGF, before_BnKFU)
    if ids_BnC is not None:
        goes_on = ids_BnC[:, 1:] == ids_BnC[:, :-1, -1:]
        goes_on = jnp.pad(goes_on, ((0, 0), (1, 0), (0, 0)))
        past = past * goes_on[..., None, None, None]
    sums = (sums + past).reshape(B, n * C, N, U + 1)[:, :T]
    o_BTNU = sums[..., :U] / jnp.maximum(sums[..., U:], 1e-30)
    return o_BTNU.astype(q_BTNH.dtype)


def performer_sums(
    k_BTKH: Float[Array, "B T K H"],
    v_BTKU: Float[Array, "B T K U"],
    features_KFH: Float[Array, "K F H"],
    there_BT: Bool[Array, "B T"],
    *,
    scale: float | None = None,
) -> Float[Array, "B K F V"]:
    """Σ φ(k)·(v, 1)ᵀ over the tokens that are there, float32, V = U + 1: all that a cache holds."""
    H = k_BTKH.shape[-1]
    root = math.sqrt(1 / math.sqrt(H) if scale is None else scale)
    w_KFH = jnp.asarray(features_KFH, jnp.float32)
    k_BTKF = _key_features((k_BTKH.astype(jnp.float32) * root)[:, None], w_KFH)[:, 0]
    k_BTKF = k_BTKF * there_BT[..., None, None]
    v_BTKU = jnp.pad(v_BTKU.astype(jnp.float32), ((0, 0),) * 3 + ((0, 1),), constant_values=1)
    return jnp.einsum("btkf,btku->bkfu", k_BTKF, v_BTKU)


def performer_read(
    sums_BKFV: Float[Array, "B K F V"],
    q_BTNH: Float[Array, "B T N H"],
    features_KFH: Float[Array, "K F H"],
    *,
    scale: float | None = None,
) -> Float[Array, "B T N U"]:
    """φ(q)·Σ φ(k) v / φ(q)·Σ φ(k), of sums that `performer_sums` made."""
    B, T, N, H = q_BTNH.shape
    K = sums_BKFV.shape[1]
    root = math.sqrt(1 / math.sqrt(H) if scale is None else scale)
    w_KFH = jnp.asarray(features_KFH, jnp.float32)
    q_BTKGH = q_BTNH.reshape(B, 1, T, K, N // K, H).astype(jnp.float32) * root
    read = jnp.einsum("btkgf,bkfu->btkgu", _query_features(q_BTKGH, w_KFH)[:, 0], sums_BKFV)
    o_BTKGU = read[..., :-1] / jnp.maximum(read[..., -1:], 1e-30)
    return o_BTKGU.reshape(B, T, N, -1).astype(q_BTNH.dtype)


def _query_features(q_BnCKGH: jax.Array, w_KFH: jax.Array) -> jax.Array:
    log = jnp.einsum("bnikgh,kfh->bnikgf", q_BnCKGH, w_KFH)
    return jnp.exp(log - jax.lax.stop_gradient(jnp.max(log, axis=-1, keepdims=True)))


def _key_features(k_BnCKH: jax.Array, w_KFH: jax.Array) -> jax.Array:
    """w·k − |k|²/2 is at most |w|²/2, which passes `LARGEST` only for wide heads."""
    log = jnp.einsum("bnjkh,kfh->bnjkf", k_BnCKH, w_KFH)
    log = log - jnp.sum(jnp.square(k_BnCKH), axis=-1, keepdims=True) / 2
    most = jnp.max(jnp.sum(jnp.square(w_KFH), axis=-1)) / 2
    return jnp.exp(log - jnp.maximum(0.0, most - LARGEST))


def _states_before(k_BnCKF: jax.Array, v_BnCKU: jax.Array, ids_BnC: jax.Array | None) -> jax.Array:
    """Σ φ(k)·vᵀ over all tokens before each chunk, of the segment in which the last chunk ended."""
    if ids_BnC is not None:
        lasts = ids_BnC == ids_BnC[:, :, -1:]
        k_BnCKF = k_BnCKF * lasts[..., None, None]
    push = jnp.einsum("bnjkf,bnjku->bnkfu", k_BnCKF, v_BnCKU)
    keep = jnp.ones((*push.shape[:2], 1, 1, 1), push.dtype)
    if ids_BnC is not None:
        same_Bn = ids_BnC[:, 1:, -1] == ids_BnC[:, :-1, -1]
        keep = jnp.pad(same_Bn, ((0, 0), (1, 0)))[..., None, None, None].astype(push.dtype)

    def combine(one: tuple, two: tuple) -> tuple:
        return one[0] * two[0], two[0] * one[1] + two[1]

    _, after = jax.lax.associative_scan(combine, (keep, push), axis=1)
    return jnp.pad(after[:, :-1], ((0, 0), (1, 0)) + ((0, 0),) * 3)
