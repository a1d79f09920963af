"""Mixtures as heads: a mixture of softmaxes over tokens, and of Gaussians over numbers.

One softmax of a width-D state has a logit matrix of rank D at most; a mixture of them has not:
Yang, Dai, Salakhutdinov, Cohen, "Breaking the Softmax Bottleneck" (2018), arXiv:1711.03953.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def mixture_of_softmaxes(
    x_TD: Float[Array, "*batch D"],
    gate_DK: Float[Array, "D K"],
    project_DKD: Float[Array, "D K D"],
    head_DV: Float[Array, "D V"],
) -> Float[Array, "*batch V"]:
    """log Σ_k π_k softmax(h_k·W) with π = softmax(x·G) and h_k = tanh(x·P_k): equation 2.

    >>> x, one = jnp.ones((1, 2)), jnp.ones((2, 1))
    >>> jnp.exp(mixture_of_softmaxes(x, one, jnp.zeros((2, 1, 2)), jnp.ones((2, 4)))).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """
    log_gate_TK = jax.nn.log_softmax((x_TD @ gate_DK).astype(jnp.float32), axis=-1)
    h_TKD = jnp.tanh(jnp.einsum("...d,dke->...ke", x_TD, project_DKD))
    log_p_TKV = jax.nn.log_softmax((h_TKD @ head_DV).astype(jnp.float32), axis=-1)
    return jax.nn.logsumexp(log_gate_TK[..., None] + log_p_TKV, axis=-2)


def gaussian_mixture(
    y_T: Float[Array, "*batch"],
    gate_TK: Float[Array, "*batch K"],
    mean_TK: Float[Array, "*batch K"],
    log_scale_TK: Float[Array, "*batch K"],
) -> Float[Array, "*batch"]:
    """log p(y|x) = log Σ_k π_k(x) N(y; μ_k(x), σ_k(x)²), natural logarithm of a density.

    Bishop, "Mixture Density Networks" (1994), equations 22 and 23.

    Args:
      gate_TK: logits of π.
      log_scale_TK: log σ.

    >>> zero = jnp.zeros((1, 2))
    >>> round(gaussian_mixture(jnp.zeros(1), zero, zero, zero).item(), 4)  # −log √(2π)
    -0.9189
    """
    z_TK = (y_T[..., None] - mean_TK) * jnp.exp(-log_scale_TK)
    log_density_TK = -0.5 * (jnp.square(z_TK) + math.log(2.0 * math.pi)) - log_scale_TK
    return jax.nn.logsumexp(jax.nn.log_softmax(gate_TK, axis=-1) + log_density_TK, axis=-1)
