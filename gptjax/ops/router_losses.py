"""Auxiliary losses of routers: load balance, z, importance and load, as published.

`T` tokens in each of `G` groups (a batch, or its sequences), `E` experts, `k` of them for a token.
A loss is computed in each group and averaged over them.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def expert_share(experts_GTk: Int[Array, "G T k"], E: int) -> Float[Array, "G E"]:
    """Share of a group's choices that went to each expert; even routing gives 1/E."""
    chosen_GTkE = experts_GTk[..., None] == jnp.arange(E)
    return jnp.mean(chosen_GTkE, axis=(1, 2), dtype=jnp.float32)


def balance_loss(
    logits_GTE: Float[Array, "G T E"], experts_GTk: Int[Array, "G T k"]
) -> Float[Array, ""]:
    """E·Σ f_e·P_e: f_e an expert's share of the choices, P_e its mean probability; 1 where even.

    Fedus et al., "Switch Transformers" (2021), equation 4; for k > 1 as DeepSeek-AI, "DeepSeek-V2"
    (2024), equations 23 to 25. Only P has a derivative.

    >>> even = jnp.zeros((1, 4, 2)), jnp.array([[[0], [1], [0], [1]]])
    >>> float(balance_loss(*even))
    1.0
    """
    E = logits_GTE.shape[-1]
    P_GE = jnp.mean(jax.nn.softmax(logits_GTE.astype(jnp.float32), axis=-1), axis=1)
    return E * jnp.mean(jnp.sum(expert_share(experts_GTk, E) * P_GE, axis=-1))


def router_z_loss(logits_GTE: Float[Array, "G T E"]) -> Float[Array, ""]:
    """Mean of (log Σ exp logit)²: keeps logits small (Zoph et al., "ST-MoE", 2022, equation 5)."""
    return jnp.mean(jnp.square(jax.nn.logsumexp(logits_GTE.astype(jnp.float32), axis=-1)))


def importance_loss(
    weights_GTk: Float[Array, "G T k"], experts_GTk: Int[Array, "G T k"], E: int
) -> Float[Array, ""]:
    """CV² of the experts' summed weights (Shazeer et al., 2017, equations 6 and 7)."""
    chosen_GTkE = experts_GTk[..., None] == jnp.arange(E)
    return _squared_variation(jnp.sum(weights_GTk[..., None] * chosen_GTkE, axis=(1, 2)))


def load_loss(
    clean_GTE: Float[Array, "G T E"],
    noisy_GTE: Float[Array, "G T E"],
    spread_GTE: Float[Array, "G T E"],
    k: int,
) -> Float[Array, ""]:
    """CV² of the experts' expected loads, smooth in the logits (Shazeer et al., 2017, appendix A).

    A token adds to an expert's load the probability that the expert is among its k if the noise on
    this expert alone were drawn again: Φ((clean − the k-th largest of the others)/spread).

    Args:
      clean_GTE, noisy_GTE: logits without and with noise; k below E.
      spread_GTE: standard deviation of the noise.
    """
    largest, _ = jax.lax.top_k(noisy_GTE, k + 1)
    inside = noisy_GTE > largest[..., k:]
    others_GTE = jnp.where(inside, largest[..., k:], largest[..., k - 1 : k])
    chance_GTE = jax.scipy.stats.norm.cdf((clean_GTE - others_GTE) / spread_GTE)
    return _squared_variation(jnp.sum(chance_GTE, axis=1))


def _squared_variation(x_GE: jax.Array) -> jax.Array:
    """Variance over squared mean, averaged over groups."""
    return jnp.mean(jnp.var(x_GE, axis=-1) / jnp.square(jnp.mean(x_GE, axis=-1)))
