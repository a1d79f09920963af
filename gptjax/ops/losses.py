"""Losses by token, in nats and float32."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


def cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    mask: Bool[Array, "*batch"] | Float[Array, "*batch"] | None = None,
) -> Float[Array, "*batch"]:
    """−log softmax(logits)[target] for every token, in nats; zero where `mask` is zero.

    Divide the sum by the number of unmasked tokens for the mean.

    >>> cross_entropy(jnp.zeros((1, 4)), jnp.array([2])).tolist()  # log 4
    [1.3862943649291992]
    """
    wide = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    nats = jax.nn.logsumexp(wide, axis=-1) - picked
    return nats if mask is None else jnp.where(mask, nats, 0.0)
