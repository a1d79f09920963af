"""Attention kernels: which one a layer uses, as a function of config, segments and backend."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import flax.linen as nn
import jax
from jax.sharding import PartitionSpec

from gptjax import ops
from gptjax.models.mixers.mixer import mixer_named
from gptjax.ops.backend import platform

if TYPE_CHECKING:
    from gptjax.models.config import ModelConfig

LONG = 1024
"""Longest context of dense attention under `attention_impl=auto`: on two CPU cores the blockwise
path is as fast there and faster above (docs/optimization.md), and its memory is linear."""

CUDNN_TYPES = ("bfloat16", "float16")
CUDNN_HEAD = 128
LANES = 128  # splash attention wants contexts and heads in multiples of a TPU register


def attention_kernel(config: "ModelConfig", kind: str, *, segmented: bool, backend: str) -> str:
    """'dense', 'masked', 'blockwise', 'cudnn' or 'splash', or the kind where it is its own path.

    Args:
      kind: the layer's element of `config.layer_pattern`.
      segmented: whether attention stays within documents.
      backend: 'cpu', 'gpu' or 'tpu'.
    """
    if not mixer_named(kind).shares_kernels:
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


def describe(config: "ModelConfig", *, segmented: bool) -> str:
    """The attention of each kind of layer on this backend, for a log line.

    >>> from gptjax.models import ModelConfig
    >>> describe(ModelConfig(seq_len=64), segmented=False)
    'dense'
    """
    backend = platform()
    names = {
        kind: attention_kernel(config, kind, segmented=segmented, backend=backend)
        for kind in dict.fromkeys(config.layer_pattern)
        if mixer_named(kind).attends
    }
    if not names:
        return "none"
    if len(set(names.values())) == 1:
        return next(iter(names.values()))
    return ", ".join(f"{name} in {kind} layers" for kind, name in names.items())


def options(config: "ModelConfig") -> dict[str, Any]:
    """Keyword arguments of every attention kernel: scale and soft cap, where they are set."""
    found: dict[str, Any] = {}
    if config.attention_scale:
        found["scale"] = config.attention_scale
    if config.attention_soft_cap:
        found["soft_cap"] = config.attention_soft_cap
    return found


def attend(
    config: "ModelConfig",
    kind: str,
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    options: dict[str, Any],
) -> jax.Array:
    """Attention by the config's kernel; some options only the masked one takes."""
    segmented = options.get("segment_ids_BT") is not None
    name = attention_kernel(config, kind, segmented=segmented, backend=platform())
    kernel = KERNELS[name]
    if name in FUSED:
        kernel = functools.partial(on_own_heads, kernel)
    return ops.attend_by(kernel, q_BTNH, k_BTKH, v_BTKH, **options)


def on_own_heads(
    kernel: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    *,
    segment_ids_BT: jax.Array | None = None,
    **options: Any,
) -> jax.Array:
    """A kernel that the compiler cannot shard, on each device's own sequences and heads.

    Both are independent in attention, so nothing is exchanged.
    """
    mesh = jax.sharding.get_abstract_mesh()
    free = set(mesh.axis_names) - set(mesh.manual_axes)
    if mesh.empty or not free or mesh.size == 1:
        return kernel(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT=segment_ids_BT, **options)
    cut_q = _cut(free, "batch", None, "heads", None)
    cut_k = _cut(free, "batch", None, "kv_heads", None)

    def local(q_BTNH: Any, k_BTKH: Any, v_BTKH: Any, ids_BT: Any) -> jax.Array:
        return kernel(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT=ids_BT, **options)

    cut = jax.shard_map(
        local,
        in_specs=(cut_q, cut_k, cut_k, _cut(free, "batch", None)),
        out_specs=cut_q,
        axis_names=free,
        check_vma=False,
    )
    return cut(q_BTNH, k_BTKH, v_BTKH, segment_ids_BT)


def _cut(free: set[str], *names: str | None) -> PartitionSpec:
    """The mesh axes of an array with these logical axes, without those of `manual` sharding."""

    def kept(entry: Any) -> Any:
        axes = (entry,) if isinstance(entry, str) else entry or ()
        return tuple(axis for axis in axes if axis in free) or None

    return PartitionSpec(*map(kept, nn.logical_to_mesh_axes(names) or ()))


def beyond_blockwise(config: "ModelConfig") -> str:
    """The setting that blocks of scores do not have; empty where there is none."""
    if config.mixer.latent.kv_rank:
        return f"model.mixer.latent.kv_rank={config.mixer.latent.kv_rank}"
    if config.positions == "alibi":
        return "model.positions=alibi"
    if config.dropout.attention:
        return f"model.dropout.attention={config.dropout.attention:g}"
    return "model.attention_sinks=True" if config.attention_sinks else ""


def _beyond_dense(config: "ModelConfig", kind: str) -> bool:
    """Whether something asks for more than the fast dense path has."""
    asked = (
        config.attention_scale,
        config.attention_soft_cap,
        config.attention_sinks,
        kind == "local",
        config.positions == "alibi",
        config.mixer.latent.kv_rank,
        config.dropout.attention,
    )
    return any(asked)


KERNELS: dict[str, Callable[..., jax.Array]] = {
    "dense": ops.attention,
    "masked": ops.masked_attention,
    "blockwise": ops.blockwise_attention,
    "cudnn": ops.cudnn_attention,
    "splash": ops.splash_attention,
}
FUSED = ("cudnn", "splash")
"""Kernels of a backend, which XLA's partitioner does not see into."""
