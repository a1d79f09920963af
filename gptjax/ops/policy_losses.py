"""Losses and estimators of policy optimisation, by token; padding has weight zero everywhere."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Tokens = Float[Array, "B T"]


def generalized_advantages(
    rewards_BT: Tokens, values_BT: Tokens, mask_BT: Tokens, *, discount: float, decay: float
) -> Tokens:
    """A_t = Σ_k (γλ)^k δ_{t+k}, δ_t = r_t + γV_{t+1} − V_t (Schulman et al. 2016, eq. 16).

    An answer is the places where the mask is 1, without gaps; after its last token V is 0.

    >>> one = jnp.ones((1, 2))
    >>> generalized_advantages(one, 0 * one, one, discount=1.0, decay=1.0).tolist()
    [[2.0, 1.0]]
    """
    values_BT = values_BT * mask_BT
    next_BT = jnp.pad(values_BT[:, 1:], ((0, 0), (0, 1)))
    delta_BT = (rewards_BT + discount * next_BT - values_BT) * mask_BT

    def back(later_B: jax.Array, here: tuple) -> tuple[jax.Array, jax.Array]:
        delta_B, mask_B = here
        advantage_B = (delta_B + discount * decay * later_B) * mask_B
        return advantage_B, advantage_B

    columns = delta_BT.T, mask_BT.T
    start_B = jnp.zeros(delta_BT.shape[0])
    return jax.lax.scan(back, start_B, columns, reverse=True)[1].T


def whitened(x_BT: Tokens, mask_BT: Tokens) -> Tokens:
    """Mean 0 and variance 1 over the places where the mask is 1; 0 elsewhere."""
    count = jnp.maximum(jnp.sum(mask_BT), 1.0)
    mean = jnp.sum(x_BT * mask_BT) / count
    variance = jnp.sum(jnp.square(x_BT - mean) * mask_BT) / count
    return (x_BT - mean) * jax.lax.rsqrt(variance + 1e-8) * mask_BT


def group_advantages(rewards_GK: Float[Array, "G K"], *, scaled: bool = True) -> Array:
    """(r − mean of its group) / (its standard deviation + 1e-4) (Shao et al. 2024, 4.1.2).

    The deviation is that of a sample (K − 1). Not scaled: the difference alone (Liu et al. 2025).

    >>> group_advantages(jnp.array([[1.0, 3.0]]), scaled=False).tolist()
    [[-1.0, 1.0]]
    """
    away_GK = rewards_GK - jnp.mean(rewards_GK, axis=1, keepdims=True)
    if not scaled:
        return away_GK
    return away_GK / (jnp.std(rewards_GK, axis=1, keepdims=True, ddof=1) + 1e-4)


def clipped_policy(
    log_ratio_BT: Tokens, advantages_BT: Tokens, *, low: float, high: float
) -> tuple[Tokens, Tokens]:
    """(−min(ρA, clip(ρ, 1 − low, 1 + high)·A), where the clip decides) (PPO, 2017, equation 7).

    Args:
      log_ratio_BT: log π − log π_old of the token.
    """
    ratio_BT = jnp.exp(log_ratio_BT)
    plain_BT = ratio_BT * advantages_BT
    clipped_BT = jnp.clip(ratio_BT, 1.0 - low, 1.0 + high) * advantages_BT
    return -jnp.minimum(plain_BT, clipped_BT), (clipped_BT < plain_BT).astype(jnp.float32)


def clipped_value(values_BT: Tokens, old_BT: Tokens, returns_BT: Tokens, *, clip: float) -> Tokens:
    """½·max((V − R)², (clip(V, V_old ± c) − R)²), as PPO's published code has it."""
    near_BT = old_BT + jnp.clip(values_BT - old_BT, -clip, clip)
    worse_BT = jnp.maximum(jnp.square(values_BT - returns_BT), jnp.square(near_BT - returns_BT))
    return 0.5 * worse_BT


def _k1(difference_BT: Tokens) -> Tokens:
    """d: without bias, of both signs."""
    return difference_BT


def _k2(difference_BT: Tokens) -> Tokens:
    """½d²: with little bias near the reference, never negative."""
    return 0.5 * jnp.square(difference_BT)


def _k3(difference_BT: Tokens) -> Tokens:
    """e^{−d} − 1 + d: without bias and never negative."""
    return jnp.expm1(-difference_BT) + difference_BT


KL_ESTIMATORS: dict[str, Callable[[Tokens], Tokens]] = {"k1": _k1, "k2": _k2, "k3": _k3}
"""KL(π‖π_ref) from tokens that π drew, d = log π − log π_ref (Schulman 2020)."""
