"""Mamba's selective state space (Gu & Dao, 2023): h_t = exp(Δ_t·A)·h_{t−1} + Δ_t·B_t·x_t.

`I` inner channels, `Z` states of each. The scans and the step compute the same numbers.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def selective_scan(
    x_BTI: Float[Array, "B T I"],
    step_BTI: Float[Array, "B T I"],
    a_IZ: Float[Array, "I Z"],
    b_BTZ: Float[Array, "B T Z"],
    c_BTZ: Float[Array, "B T Z"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T I"]:
    """C_t·h_t for every t, by an associative scan over time, in float32.

    Args:
      step_BTI: Δ, positive.
      a_IZ: A, negative.
      segment_ids_BT: where given, the state begins at zero with every segment.
    """
    decay_BTIZ, push_BTIZ = _discretise(x_BTI, step_BTI, a_IZ, b_BTZ)
    if segment_ids_BT is not None:
        same_BT = segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1]
        same_BT = jnp.pad(same_BT, ((0, 0), (1, 0)))
        decay_BTIZ = decay_BTIZ * same_BT[..., None, None]

    _, h_BTIZ = jax.lax.associative_scan(_combine, (decay_BTIZ, push_BTIZ), axis=1)
    return jnp.einsum("btiz,btz->bti", h_BTIZ, c_BTZ.astype(jnp.float32))


def selective_scan_in_turn(
    x_BTI: Float[Array, "B T I"],
    step_BTI: Float[Array, "B T I"],
    a_IZ: Float[Array, "I Z"],
    b_BTZ: Float[Array, "B T Z"],
    c_BTZ: Float[Array, "B T Z"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T I"]:
    """The same, token after token: no T·log T work and no states of all tokens at once.

    For machines that have no parallel units to fill: forward and backward take a half to a third of
    the associative scan's time on a CPU core, and compile in a quarter.
    """
    B, T = x_BTI.shape[:2]
    same_BT = jnp.ones((B, T), bool)
    if segment_ids_BT is not None:
        same_BT = same_BT.at[:, 1:].set(segment_ids_BT[:, 1:] == segment_ids_BT[:, :-1])

    def one(h_BIZ: jax.Array, token: tuple) -> tuple[jax.Array, jax.Array]:
        *inputs, same_B = token
        x_BI, step_BI, b_BZ, c_BZ = inputs
        h_BIZ = h_BIZ * same_B[:, None, None]
        y_BI, h_BIZ = selective_step(h_BIZ, x_BI, step_BI, a_IZ, b_BZ, c_BZ)
        return h_BIZ, y_BI

    start_BIZ = jnp.zeros((B, *a_IZ.shape), jnp.float32)
    by_token = (jnp.swapaxes(y, 0, 1) for y in (x_BTI, step_BTI, b_BTZ, c_BTZ, same_BT))
    _, y_TBI = jax.lax.scan(one, start_BIZ, tuple(by_token))
    return jnp.swapaxes(y_TBI, 0, 1)


def selective_scan_from(
    x_BTI: Float[Array, "B T I"],
    step_BTI: Float[Array, "B T I"],
    a_IZ: Float[Array, "I Z"],
    b_BTZ: Float[Array, "B T Z"],
    c_BTZ: Float[Array, "B T Z"],
    start_BIZ: Float[Array, "B I Z"],
) -> tuple[Float[Array, "B T I"], Float[Array, "B I Z"]]:
    """`selective_scan` that goes on from a state: (C_t·h_t, the last h)."""
    decay_BTIZ, push_BTIZ = _discretise(x_BTI, step_BTI, a_IZ, b_BTZ)
    push_BTIZ = push_BTIZ.at[:, 0].add(decay_BTIZ[:, 0] * start_BIZ)
    _, h_BTIZ = jax.lax.associative_scan(_combine, (decay_BTIZ, push_BTIZ), axis=1)
    return jnp.einsum("btiz,btz->bti", h_BTIZ, c_BTZ.astype(jnp.float32)), h_BTIZ[:, -1]


def selective_scan_from_in_turn(
    x_BTI: Float[Array, "B T I"],
    step_BTI: Float[Array, "B T I"],
    a_IZ: Float[Array, "I Z"],
    b_BTZ: Float[Array, "B T Z"],
    c_BTZ: Float[Array, "B T Z"],
    start_BIZ: Float[Array, "B I Z"],
) -> tuple[Float[Array, "B T I"], Float[Array, "B I Z"]]:
    """The same, token after token."""

    def one(h_BIZ: jax.Array, token: tuple) -> tuple[jax.Array, jax.Array]:
        x_BI, step_BI, b_BZ, c_BZ = token
        y_BI, h_BIZ = selective_step(h_BIZ, x_BI, step_BI, a_IZ, b_BZ, c_BZ)
        return h_BIZ, y_BI

    by_token = tuple(jnp.swapaxes(y, 0, 1) for y in (x_BTI, step_BTI, b_BTZ, c_BTZ))
    h_BIZ, y_TBI = jax.lax.scan(one, start_BIZ, by_token)
    return jnp.swapaxes(y_TBI, 0, 1), h_BIZ


def selective_step(
    h_BIZ: Float[Array, "B I Z"],
    x_BI: Float[Array, "B I"],
    step_BI: Float[Array, "B I"],
    a_IZ: Float[Array, "I Z"],
    b_BZ: Float[Array, "B Z"],
    c_BZ: Float[Array, "B Z"],
) -> tuple[Float[Array, "B I"], Float[Array, "B I Z"]]:
    """One token of `selective_scan`: (C·h, the new h)."""
    decay_BIZ, push_BIZ = _discretise(x_BI, step_BI, a_IZ, b_BZ)
    h_BIZ = decay_BIZ * h_BIZ + push_BIZ
    return jnp.einsum("biz,bz->bi", h_BIZ, c_BZ.astype(jnp.float32)), h_BIZ


def causal_convolution(
    x_BTI: Float[Array, "B T I"],
    w_CI: Float[Array, "C I"],
    bias_I: Float[Array, " I"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
) -> Float[Array, "B T I"]:
    """Σ_j w[C−1−j]·x_{t−j} + bias in each channel: the last tap is the token's own."""
    T = x_BTI.shape[1]
    total = jnp.zeros_like(x_BTI)
    for j in range(min(w_CI.shape[0], T)):
        moved_BTI = jnp.pad(x_BTI, ((0, 0), (j, 0), (0, 0)))[:, :T]
        if segment_ids_BT is not None and j:
            same_BT = segment_ids_BT[:, j:] == segment_ids_BT[:, :-j]
            moved_BTI = moved_BTI * jnp.pad(same_BT, ((0, 0), (j, 0)))[..., None]
        total = total + moved_BTI * w_CI[w_CI.shape[0] - 1 - j].astype(x_BTI.dtype)
    return total + bias_I.astype(x_BTI.dtype)


def _combine(one: tuple, two: tuple) -> tuple:
    return one[0] * two[0], two[0] * one[1] + two[1]


def _discretise(x: Array, step: Array, a_IZ: Array, b: Array) -> tuple[Array, Array]:
    """exp(Δ·A) and Δ·B·x, [..., I, Z] float32."""
    x, step, b = (y.astype(jnp.float32) for y in (x, step, b))
    return jnp.exp(step[..., None] * a_IZ), (step * x)[..., None] * b[..., None, :]
