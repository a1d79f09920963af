"""Context parallelism: attention of sequences whose tokens are sharded over the axis `seq`.

`ring`: keys and values go around (gptjax/ops/ring_attention.py), tokens lie in the order that
gives every device the same work. `all_to_all` (Jacobs et al., 2023, "DeepSpeed Ulysses",
arXiv:2309.14509): tokens are exchanged for heads, each device computes some heads of whole
sequences by the kernel of one device, and heads are exchanged for tokens.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from gptjax.ops.ring_attention import (
    Ring,
    balanced_chunks,
    make_visits,
    ring_attention,
    ring_block,
)
from gptjax.ops.sequence_sharding import SequenceSharding

AXIS = "seq"
HEADS = ("tensor", AXIS)
"""The axes that shard heads under all_to_all, in the order in which it exchanges them."""


def make_sequence_sharding(mesh: Mesh, kind: str, rules: Any) -> SequenceSharding | None:
    """The order and attention of sharded sequences; None where the axis has one device.

    Args:
      kind: `mesh.context`.
      rules: the table from logical axes to mesh axes.
    """
    devices = mesh.shape[AXIS]
    if devices == 1:
        return None
    return CONTEXTS[kind](_Cut(mesh, rules), devices)


@dataclasses.dataclass(frozen=True)
class _Cut:
    """Runs a function on each device's shards of arrays."""

    mesh: Mesh
    rules: Any

    def spec(self, shape: tuple[int, ...], *names: str | None) -> P:
        """Mesh axes of an array with these logical axes, those that divide it."""
        return fitting(nn.logical_to_mesh_axes(names, self.rules), shape, self.mesh.shape)

    def run(self, local: Callable[..., jax.Array], specs: tuple, out: P, *arrays: Any) -> jax.Array:
        """`local` on the shards; axes of the mesh that shard nothing stay with the compiler."""
        entries = [entry for spec in jax.tree.leaves(specs) for entry in spec if entry is not None]
        axes = {a for entry in entries for a in ((entry,) if isinstance(entry, str) else entry)}
        whole = jax.shard_map(
            local, in_specs=specs, out_specs=out, axis_names=axes | {AXIS}, check_vma=False
        )
        return whole(*arrays)


def _ring_of(devices: int, T: int) -> Ring:
    return Ring(AXIS, balanced_chunks(devices), T // (2 * devices))


def _balanced_order(devices: int, T: int) -> np.ndarray | None:
    return _ring_of(devices, T).positions if _is_cut(devices, T) else None


def _is_cut(devices: int, T: int) -> bool:
    """Whether inputs are long enough to be sharded; a model is initialised with one token."""
    return T % (2 * devices) == 0


def _ring(
    cut: _Cut,
    devices: int,
    kernel: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    **options: Any,
) -> jax.Array:
    T = q_BTNH.shape[1]
    if not _is_cut(devices, T):
        return kernel(q_BTNH, k_BTKH, v_BTKH, **options)
    ring = _ring_of(devices, T)
    visits = make_visits(ring, ring_block(ring), options.get("window", 0))
    tables = visits.pairs_dopj, visits.starts_doc.astype(np.int32)
    segment_ids_BT = options.pop("segment_ids_BT", None)

    def local(q: Any, k: Any, v: Any, ids: Any, pairs: Any, starts: Any) -> jax.Array:
        return ring_attention(q, k, v, (pairs, starts), ring=ring, segment_ids_BL=ids, **options)

    q_spec = cut.spec(q_BTNH.shape, "batch", "seq", "heads", None)
    k_spec = cut.spec(k_BTKH.shape, "batch", "seq", "kv_heads", None)
    specs = (q_spec, k_spec, k_spec, P(*q_spec[:2]), P(AXIS), P(AXIS))
    return cut.run(local, specs, q_spec, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, *tables)


def _all_to_all(
    cut: _Cut,
    devices: int,
    kernel: Callable[..., jax.Array],
    q_BTNH: jax.Array,
    k_BTKH: jax.Array,
    v_BTKH: jax.Array,
    **options: Any,
) -> jax.Array:
    if q_BTNH.shape[1] % devices:
        return kernel(q_BTNH, k_BTKH, v_BTKH, **options)
    segment_ids_BT = options.pop("segment_ids_BT", None)
    by_head = {name: x for name, x in options.items() if name.endswith("_N")}
    others = {name: x for name, x in options.items() if name not in by_head}

    def local(q: Any, k: Any, v: Any, ids: Any, own: Any) -> jax.Array:
        q, k, v = (
            jax.lax.all_to_all(x, AXIS, split_axis=2, concat_axis=1, tiled=True) for x in (q, k, v)
        )
        o = kernel(q, k, v, segment_ids_BT=ids, **own, **others)
        return jax.lax.all_to_all(o, AXIS, split_axis=1, concat_axis=2, tiled=True)

    q_spec = cut.spec(q_BTNH.shape, "batch", "seq", "heads", None)
    k_spec = cut.spec(k_BTKH.shape, "batch", "seq", "kv_heads", None)
    specs = (q_spec, k_spec, k_spec, P(q_spec[0]), dict.fromkeys(by_head, P(HEADS)))
    return cut.run(local, specs, q_spec, q_BTNH, k_BTKH, v_BTKH, segment_ids_BT, by_head)


def fitting(spec: Any, shape: tuple[int, ...], sizes: Any) -> P:
    """`spec` without the mesh axes that do not divide the array's."""

    def kept(entry: Any, size: int) -> Any:
        names = (entry,) if isinstance(entry, str) else entry or ()
        return entry if size % math.prod(sizes[name] for name in names) == 0 else None

    return P(*(kept(entry, size) for entry, size in zip(spec, shape, strict=False)))


CONTEXTS: dict[str, Callable[[_Cut, int], SequenceSharding]] = {
    "ring": lambda cut, devices: SequenceSharding(
        functools.partial(_balanced_order, devices), functools.partial(_ring, cut, devices)
    ),
    "all_to_all": lambda cut, devices: SequenceSharding(
        lambda T: None, functools.partial(_all_to_all, cut, devices)
    ),
}
"""The choices of `mesh.context`."""
