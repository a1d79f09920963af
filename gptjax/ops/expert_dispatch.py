"""Experts with a capacity: tokens lie in slots, `C` for each of `E` experts and each sequence.

Capacity is counted within a sequence (the groups of Lepikhin et al., "GShard", 2020, section 3.2),
so that which tokens are dropped depends neither on micro-batches nor on the mesh. `k` experts are
wanted by each of `T` tokens; slot E·C stands for none.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def expert_capacity(factor: float, tokens: int, per_token: int, experts: int) -> int:
    """⌈factor·k·T/E⌉, at most T (Fedus et al., "Switch Transformers", 2021, equation 3).

    >>> expert_capacity(1.25, 16, 1, 4), expert_capacity(1.0, 16, 2, 3)
    (5, 11)
    """
    return min(tokens, math.ceil(factor * per_token * tokens / experts))


def assign_slots(experts_BTk: Int[Array, "B T k"], E: int, C: int) -> Int[Array, "B T k"]:
    """The slot of each choice, or E·C where its expert is full.

    First choices come before second ones, and tokens in their order (GShard, algorithm 1).

    >>> assign_slots(jnp.array([[[0], [0], [1], [0]]]), E=2, C=2).ravel().tolist()
    [0, 1, 2, 4]
    """
    B, T, k = experts_BTk.shape
    queue_BQ = jnp.swapaxes(experts_BTk, 1, 2).reshape(B, k * T)
    chosen_BQE = (queue_BQ[..., None] == jnp.arange(E)).astype(jnp.int32)
    place_BQ = jnp.sum(jnp.cumsum(chosen_BQE, axis=1) * chosen_BQE, axis=-1) - 1
    slot_BQ = jnp.where(place_BQ < C, queue_BQ * C + place_BQ, E * C)
    return jnp.swapaxes(slot_BQ.reshape(B, k, T), 1, 2)


def dispatch(
    x_BTD: Float[Array, "B T D"], slot_BTk: Int[Array, "B T k"], E: int, C: int
) -> Float[Array, "B E C D"]:
    """The tokens in their slots; zeros in empty ones."""

    def one(x_TD: jax.Array, slot_Tk: jax.Array) -> jax.Array:
        T = x_TD.shape[0]
        token_Tk = jnp.broadcast_to(jnp.arange(T)[:, None], slot_Tk.shape)
        owner_S = jnp.full(E * C, T).at[slot_Tk].set(token_Tk, mode="drop")
        return x_TD.at[owner_S].get(mode="fill", fill_value=0)

    return jax.vmap(one)(x_BTD, slot_BTk).reshape(x_BTD.shape[0], E, C, -1)


def combine(
    y_BECD: Float[Array, "B E C D"],
    slot_BTk: Int[Array, "B T k"],
    weights_BTk: Float[Array, "B T k"],
) -> Float[Array, "B T D"]:
    """Σ over a token's slots of weight·y; nothing for choices that were dropped."""

    def one(y_SD: jax.Array, slot_Tk: jax.Array, weights_Tk: jax.Array) -> jax.Array:
        y_TkD = y_SD.at[slot_Tk].get(mode="fill", fill_value=0)
        return jnp.sum(y_TkD * weights_Tk[..., None].astype(y_SD.dtype), axis=1)

    B, E, C, D = y_BECD.shape
    return jax.vmap(one)(y_BECD.reshape(B, E * C, D), slot_BTk, weights_BTk)


def slot_product(
    x_BECD: Float[Array, "B E C D"], w_EDF: Float[Array, "E D F"]
) -> Float[Array, "B E C F"]:
    """x·w, the slots of each expert by its own matrix."""
    wide = jnp.einsum(
        "becd,edf->becf", x_BECD, w_EDF.astype(x_BECD.dtype), preferred_element_type=jnp.float32
    )
    return wide.astype(x_BECD.dtype)
