"""Cross-entropy from features and head, without ever holding the logits of all tokens.

The loss of a batch is a sum, so that its gradient needs nothing that is not known when a chunk's
logits are: they are made, turned into the gradients of features and head, and dropped. That is
three products a chunk, as many as the plain loss needs (Hsu et al., 2024, "Liger Kernel", section
3.2, do the same); the backward pass only multiplies by the sum's derivative.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from gptjax.ops.losses import penalised_cross_entropy


@dataclasses.dataclass(frozen=True)
class Head:
    """The steps between the product with the head's matrix and the loss.

    Attributes:
      logit_scale: multiplies the logits.
      logit_soft_cap: c in c·tanh(logit/c); 0: none.
      z_loss: weight of the squared logarithm of the normaliser (PaLM, section 5: 1e-4).
      label_smoothing: share of the target's weight that is spread over the vocabulary.
    """

    logit_scale: float = 1.0
    logit_soft_cap: float = 0.0
    z_loss: float = 0.0
    label_smoothing: float = 0.0


def chunked_cross_entropy(
    x_BTD: Float[Array, "B T D"],
    w_DV: Float[Array, "D V"],
    targets_BT: Int[Array, "B T"],
    mask_BT: Bool[Array, "B T"] | Float[Array, "B T"],
    *,
    chunk: int,
    head: Head = Head(),
) -> tuple[Float[Array, ""], Float[Array, "B T"]]:
    """(objective summed over scored tokens, nats of each token), in float32.

    The objective is differentiable in features and head; the nats are for reports, they leave
    z-loss and smoothing out and have no derivative.

    Args:
      x_BTD: the head's input.
      chunk: tokens whose logits exist at one time.
    """
    B, T = targets_BT.shape
    M = B * T
    chunk = min(chunk, M)
    n = -(-M // chunk)

    def to_chunks(x: jax.Array) -> jax.Array:
        rows = x.reshape(M, *x.shape[2:])
        padded = jnp.pad(rows, ((0, n * chunk - M),) + ((0, 0),) * (rows.ndim - 1))
        return padded.reshape(n, chunk, *rows.shape[1:])

    x_ncD, targets_nc, mask_nc = (to_chunks(x) for x in (x_BTD, targets_BT, mask_BT))
    total, nats_nc = _chunked(head, x_ncD, w_DV, targets_nc, mask_nc.astype(jnp.float32))
    return total, jax.lax.stop_gradient(nats_nc.reshape(-1)[:M].reshape(B, T))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(
    head: Head, x_ncD: jax.Array, w_DV: jax.Array, targets_nc: jax.Array, mask_nc: jax.Array
) -> tuple[jax.Array, jax.Array]:
    w = w_DV.astype(x_ncD.dtype)

    def one(total: jax.Array, chunk: tuple) -> tuple[jax.Array, jax.Array]:
        x_cD, targets_c, mask_c = chunk
        objective, nats_c = _objective(head, _logits(x_cD, w), targets_c, mask_c)
        return total + objective, nats_c

    return jax.lax.scan(one, jnp.zeros(()), (x_ncD, targets_nc, mask_nc))


def _chunked_forward(
    head: Head, x_ncD: jax.Array, w_DV: jax.Array, targets_nc: jax.Array, mask_nc: jax.Array
) -> tuple[tuple[jax.Array, jax.Array], tuple]:
    """The values, and the gradients of the sum."""
    w = w_DV.astype(x_ncD.dtype)

    def one(carry: tuple, chunk: tuple) -> tuple[tuple, tuple]:
        total, dw_VD = carry
        x_cD, targets_c, mask_c = chunk
        slope = jax.value_and_grad(functools.partial(_objective, head), has_aux=True)
        (objective, nats_c), ds_cV = slope(_logits(x_cD, w), targets_c, mask_c)
        ds_cV = ds_cV.astype(x_cD.dtype)
        dx_cD = _dot("cV,DV->cD", ds_cV, w).astype(x_cD.dtype)
        # Rows are the vocabulary: the other order is slower on CPU.
        dw_VD = dw_VD + _dot("cV,cD->VD", ds_cV, x_cD)
        return (total + objective, dw_VD), (nats_c, dx_cD)

    zero = (jnp.zeros(()), jnp.zeros(w_DV.shape[::-1]))
    (total, dw_VD), (nats_nc, dx_ncD) = jax.lax.scan(one, zero, (x_ncD, targets_nc, mask_nc))
    return (total, nats_nc), (dx_ncD, dw_VD.T.astype(w_DV.dtype))


def _chunked_backward(head: Head, gradients: tuple, cotangents: tuple) -> tuple:
    dx_ncD, dw_DV = gradients
    g = cotangents[0]
    return (dx_ncD * g.astype(dx_ncD.dtype), dw_DV * g.astype(dw_DV.dtype), None, None)


_chunked.defvjp(_chunked_forward, _chunked_backward)


def _objective(
    head: Head, logits_cV: jax.Array, targets_c: jax.Array, mask_c: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(objective, nats of each token) of one chunk."""
    if head.logit_scale != 1.0:
        logits_cV = logits_cV * head.logit_scale
    if head.logit_soft_cap:
        logits_cV = head.logit_soft_cap * jnp.tanh(logits_cV / head.logit_soft_cap)
    objective_c, nats_c = penalised_cross_entropy(
        logits_cV, targets_c, mask_c, z_loss=head.z_loss, label_smoothing=head.label_smoothing
    )
    return jnp.sum(objective_c), nats_c


def _logits(x_cD: jax.Array, w_DV: jax.Array) -> jax.Array:
    return _dot("cD,DV->cV", x_cD, w_DV)


def _dot(equation: str, x: jax.Array, y: jax.Array) -> jax.Array:
    return jnp.einsum(equation, x, y, preferred_element_type=jnp.float32)
