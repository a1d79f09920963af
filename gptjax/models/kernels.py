"""Which attention a model uses: a function of its config, of segments, and of the backend."""

from collections.abc import Callable
from typing import Any

import jax

from gptjax import ops
from gptjax.models.config import SPARSE, ModelConfig, beyond_blockwise
from gptjax.models.sparse import attend_sparsely

LONG = 1024
"""Longest context of dense attention under `attention_impl=auto`: on two CPU cores the blockwise
path is as fast there and faster above (docs/optimization.md), and its memory is linear."""

CUDNN_TYPES = ("bfloat16", "float16")
CUDNN_HEAD = 128
LANES = 128  # splash attention wants contexts and heads in multiples of a TPU register


def attention_kernel(config: ModelConfig, kind: str, *, segmented: bool, backend: str) -> str:
    """'dense', 'masked', 'blockwise', 'cudnn' or 'splash', or the kind where it is its own path.

    Args:
      kind: the layer's element of `config.layer_pattern`.
      segmented: whether attention stays within documents.
      backend: 'cpu', 'gpu' or 'tpu'.
    """
    if kind in SPARSE:
        return kind
    dense = "masked" if _beyond_dense(config, kind) else "dense"
    if config.attention_impl == "dense" or beyond_blockwise(config):
        return dense
    if config.attention_impl == "blockwise":
        return "blockwise"
    capped = config.attention_soft_cap > 0.0
    narrow = config.compute_dtype in CUDNN_TYPES
    fits = config.head_width <= CUDNN_HEAD and config.head_width % 8 == 0
    if backend == "gpu" and narrow and fits and not (capped or segmented):
        return "cudnn"
    if backend == "tpu" and config.head_width % LANES == 0 and config.seq_len % LANES == 0:
        return "splash"
    return "blockwise" if config.seq_len > LONG else dense


def describe(config: ModelConfig, *, segmented: bool) -> str:
    """The attention of each kind of layer on this backend, for a log line.

    >>> describe(ModelConfig(seq_len=64), segmented=False)
    'dense'
    """
    backend = jax.default_backend()
    names = {
        kind: attention_kernel(config, kind, segmented=segmented, backend=backend)
        for kind in dict.fromkeys(config.layer_pattern)
        if kind != "ssm"
    }
    if not names:
        return "none"
    if len(set(names.values())) == 1:
        return next(iter(names.values()))
    return ", ".join(f"{name} in {kind} layers" for kind, name in names.items())


def attend(
    config: ModelConfig,
    kind: str,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    segment_ids_BT: jax.Array | None,
    extras: dict[str, Any],
) -> jax.Array:
    """Attention by the config's kernel; `extras` are arrays that only the masked path takes."""
    segmented = segment_ids_BT is not None
    name = attention_kernel(config, kind, segmented=segmented, backend=jax.default_backend())
    options: dict[str, Any] = {**extras}
    if config.attention_scale:
        options["scale"] = config.attention_scale
    if kind == "local":
        options["window"] = config.window
    if config.attention_soft_cap:
        options["soft_cap"] = config.attention_soft_cap
    if kind in SPARSE:
        return attend_sparsely(config, kind, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, options)
    return ops.attend_by(
        KERNELS[name], q_BTNH, k_BTKH, v_BTKH, segment_ids_BT=segment_ids_BT, **options
    )


def _beyond_dense(config: ModelConfig, kind: str) -> bool:
    """Whether something asks for more than the fast dense path has."""
    asked = (
        config.attention_scale, config.attention_soft_cap, config.attention_sinks,
        kind == "local", config.positions == "alibi", config.kv_rank,
    )  # fmt: skip
    return any(asked)


KERNELS: dict[str, Callable[..., jax.Array]] = {
    "dense": ops.attention,
    "masked": ops.masked_attention,
    "blockwise": ops.blockwise_attention,
    "cudnn": ops.cudnn_attention,
    "splash": ops.splash_attention,
}
