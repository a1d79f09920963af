"""Normalisation over the last axis, in float32 whatever the input's type."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def layer_norm(
    x: Float[Array, "*batch D"],
    scale_D: Float[Array, " D"],
    bias_D: Float[Array, " D"] | None = None,
    *,
    eps: float = 1e-5,
) -> Float[Array, "*batch D"]:
    """(x − mean)/√(variance + eps)·scale + bias (Ba, Kiros & Hinton, 2016), in float32.

    >>> layer_norm(jnp.array([1.0, 3.0]), jnp.ones(2), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    wide = x.astype(jnp.float32)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    normed = centred * jax.lax.rsqrt(variance + eps) * scale_D
    if bias_D is not None:
        normed = normed + bias_D
    return normed.astype(x.dtype)


def rms_norm(
    x: Float[Array, "*batch D"], scale_D: Float[Array, " D"], *, eps: float = 1e-5
) -> Float[Array, "*batch D"]:
    """x/√(mean(x²) + eps)·scale (Zhang & Sennrich, 2019), in float32.

    >>> rms_norm(jnp.array([1.0, 7.0]), jnp.ones(2), eps=0.0).tolist()
    [0.20000000298023224, 1.399999976158142]
    """
    wide = x.astype(jnp.float32)
    mean_square = jnp.mean(jnp.square(wide), axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(mean_square + eps) * scale_D).astype(x.dtype)
