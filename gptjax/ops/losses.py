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


def penalised_cross_entropy(
    logits: Float[Array, "*batch V"],
    targets: Int[Array, "*batch"],
    mask: Bool[Array, "*batch"] | Float[Array, "*batch"] | None = None,
    *,
    z_loss: float = 0.0,
    label_smoothing: float = 0.0,
) -> tuple[Float[Array, "*batch"], Float[Array, "*batch"]]:
    """(what is trained on, the plain cross-entropy) of every token, in nats.

    With s the logits and log Z their logsumexp, the first is
    log Z − (1 − ε)·s[target] − ε·mean(s) + z·(log Z)².

    Args:
      z_loss: z; keeps the normaliser near one (Chowdhery et al., 2022, section 5: 1e-4).
      label_smoothing: ε (Szegedy et al., 2015, section 7).

    >>> trained, plain = penalised_cross_entropy(jnp.zeros((1, 4)), jnp.array([2]), z_loss=1.0)
    >>> round(trained.item(), 4), round(plain.item(), 4)  # log 4 + (log 4)², log 4
    (3.3081, 1.3863)
    """
    plain = cross_entropy(logits, targets, mask)
    if not (z_loss or label_smoothing):
        return plain, plain
    wide = logits.astype(jnp.float32)
    log_z = jax.nn.logsumexp(wide, axis=-1)
    picked = jnp.take_along_axis(wide, targets[..., None], axis=-1)[..., 0]
    aimed = (1 - label_smoothing) * picked + label_smoothing * jnp.mean(wide, axis=-1)
    trained = log_z - aimed + z_loss * jnp.square(log_z)
    return trained if mask is None else jnp.where(mask, trained, 0.0), plain
