"""Routing of a mixture of experts: the experts of each token, and their weighted sum.

`M` tokens, `E` experts, `k` of them for each token. No token is dropped.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def route(
    logits_ME: Float[Array, "M E"],
    k: int,
    *,
    renormalise: bool,
    scale: float = 1.0,
    groups: int = 1,
    top_groups: int = 1,
) -> tuple[Float[Array, "M k"], Int[Array, "M k"]]:
    """(weights, experts) of the k experts with the largest softmax probability, float32.

    Args:
      renormalise: the k weights sum to one (Jiang et al., "Mixtral of Experts", 2024, section 2.1);
        otherwise they are the probabilities (Dai et al., "DeepSeekMoE", 2024, equation 5).
      scale: multiplies the weights.
      groups, top_groups: only experts of the `top_groups` groups with the largest single
        probability are looked at (DeepSeek-AI, "DeepSeek-V2", 2024, section 2.2.2).
    """
    probability_ME = jax.nn.softmax(logits_ME.astype(jnp.float32), axis=-1)
    if groups > 1:
        best_MG = jnp.max(probability_ME.reshape(probability_ME.shape[0], groups, -1), axis=-1)
        _, chosen_Mg = jax.lax.top_k(best_MG, top_groups)
        open_MG = jnp.any(chosen_Mg[..., None] == jnp.arange(groups), axis=1)
        open_ME = jnp.repeat(open_MG, probability_ME.shape[-1] // groups, axis=-1)
        probability_ME = jnp.where(open_ME, probability_ME, 0.0)
    weights_Mk, experts_Mk = jax.lax.top_k(probability_ME, k)
    if renormalise:
        weights_Mk = weights_Mk / jnp.sum(weights_Mk, axis=-1, keepdims=True)
    return weights_Mk * scale, experts_Mk


def mix_experts(
    x_MD: Float[Array, "M D"],
    weights_Mk: Float[Array, "M k"],
    experts_Mk: Int[Array, "M k"],
    E: int,
    feed_forward: Callable[[jax.Array, jax.Array], jax.Array],
) -> Float[Array, "M D"]:
    """Σ over a token's experts of weight·feed_forward(x).

    Args:
      feed_forward: (x_SD, sizes_E) → y_SD of tokens that are sorted by expert, the first sizes_E[0]
        those of expert 0, and so on; its products are `ragged_product`.
    """
    k = weights_Mk.shape[1]
    order = jnp.argsort(experts_Mk.reshape(-1))
    token = order // k
    sizes_E = jnp.bincount(experts_Mk.reshape(-1), length=E)
    y_SD = feed_forward(x_MD[token], sizes_E)
    y_SD = y_SD * weights_Mk.reshape(-1)[order, None].astype(x_MD.dtype)
    return jnp.zeros_like(x_MD).at[token].add(y_SD)


def ragged_product(
    x_SD: Float[Array, "S D"], w_EDF: Float[Array, "E D F"], sizes_E: Int[Array, " E"]
) -> Float[Array, "S F"]:
    """x·w by groups of rows: the first sizes_E[0] rows by w_EDF[0], and so on.

    k/E of the products of all experts where the backend has such a product (on CPU, XLA multiplies
    them all).
    """
    w_EDF = w_EDF.astype(x_SD.dtype)
    wide = jax.lax.ragged_dot(x_SD, w_EDF, sizes_E, preferred_element_type=jnp.float32)
    return wide.astype(x_SD.dtype)
