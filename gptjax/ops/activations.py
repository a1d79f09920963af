"""Activation functions of the feed-forward, and its gates."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x·Φ(x) with the exact normal distribution function (Hendrycks & Gimpel, 2016, eq. 1)."""
    return jax.nn.gelu(x, approximate=False)


def gelu_tanh(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by its tanh approximation, GPT-2's: x/2·(1 + tanh(√(2/π)(x + 0.044715x³)))."""
    return jax.nn.gelu(x, approximate=True)


def quick_gelu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """GELU by the logistic function, CLIP's: x·σ(1.702x) (Hendrycks & Gimpel, 2016, section 2)."""
    return x * jax.nn.sigmoid(1.702 * x)


def relu(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """max(x, 0)."""
    return jnp.maximum(x, 0)


def swish(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """x·σ(x), also called SiLU (Ramachandran et al., 2017)."""
    return x * jax.nn.sigmoid(x)


# Feed-forward kind -> (non-linearity, whether a second matrix is gated by it). The gated kinds
# are those of Shazeer, "GLU Variants Improve Transformer" (2020), equation 6; GeGLU there uses
# the exact GELU. "gegelu" is Phi-3-small's, by its released code; see `gated`.
FEED_FORWARD: dict[str, tuple[Callable[[jax.Array], jax.Array], bool]] = {
    "gelu": (gelu, False),
    "gelu_tanh": (gelu_tanh, False),
    "quick_gelu": (quick_gelu, False),
    "relu": (relu, False),
    "silu": (swish, False),
    "swiglu": (swish, True),
    "geglu": (gelu, True),
    "geglu_tanh": (gelu_tanh, True),
    "reglu": (relu, True),
    "gegelu": (quick_gelu, True),
}


def gated(
    kind: str, gate: Float[Array, "..."], up: Float[Array, "..."], limit: float = 0.0
) -> Float[Array, "..."]:
    """activation(gate)·up of a gated kind; of "gegelu" activation(gate)·(up + 1).

    Args:
      limit: where positive, gates are at most that, and `up` is between −limit and limit.
    """
    if limit:
        gate, up = jnp.minimum(gate, limit), jnp.clip(up, -limit, limit)
    return FEED_FORWARD[kind][0](gate) * (up + 1 if kind == "gegelu" else up)
