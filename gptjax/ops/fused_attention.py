"""Attention by the kernels of a backend: cuDNN's on NVIDIA GPUs, Pallas' splash attention on TPUs.

Checked here by lowering for those platforms and, for splash attention, in Pallas' interpreter.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int


def cudnn_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    *,
    segment_ids_BT: None = None,
    scale: float | None = None,
    window: int = 0,
) -> Float[Array, "B T N H"]:
    """Causal attention of 16-bit numbers by cuDNN; without segments, whose mask would be dense."""
    return jax.nn.dot_product_attention(
        q_BTNH,
        k_BTKH,
        v_BTKH,
        scale=scale,
        is_causal=True,
        local_window_size=(window - 1, 0) if window else None,
        implementation="cudnn",
    )


def splash_attention(
    q_BTNH: Float[Array, "B T N H"],
    k_BTKH: Float[Array, "B T K H"],
    v_BTKH: Float[Array, "B T K H"],
    *,
    segment_ids_BT: Int[Array, "B T"] | None = None,
    scale: float | None = None,
    window: int = 0,
    soft_cap: float = 0.0,
    interpret: bool = False,
) -> Float[Array, "B T N H"]:
    """Causal attention by Pallas' splash kernel; T and H are multiples of 128.

    Args:
      interpret: run the kernel's code in Pallas' interpreter, on any backend.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    _, T, N, H = q_BTNH.shape
    K = k_BTKH.shape[2]
    causal = splash.CausalMask((T, T))
    mask = splash.LocalMask((T, T), (window - 1, 0), 0) if window else causal
    kernel = splash.make_splash_mqa_single_device(
        splash.MultiHeadMask([mask] * (N // K)),
        attn_logits_soft_cap=soft_cap or None,
        interpret=interpret,
    )
    q_BTNH = q_BTNH * (1 / math.sqrt(H) if scale is None else scale)
    q_BTKGH = q_BTNH.reshape(*q_BTNH.shape[:2], K, N // K, H)
    q_BKGTH = jnp.transpose(q_BTKGH, (0, 2, 3, 1, 4))
    k_BKTH, v_BKTH = (jnp.swapaxes(x, 1, 2) for x in (k_BTKH, v_BTKH))
    ids = None
    if segment_ids_BT is not None:
        ids = splash.SegmentIds(segment_ids_BT, segment_ids_BT)
    by_key_head = jax.vmap(kernel, in_axes=(0, 0, 0, None))
    o_BKGTH = jax.vmap(by_key_head, in_axes=(0, 0, 0, 0 if ids else None))(
        q_BKGTH, k_BKTH, v_BKTH, ids
    )
    return jnp.transpose(o_BKGTH, (0, 3, 1, 2, 4)).reshape(q_BTNH.shape)
