"""Sharding rules: one table from logical axes to mesh axes, and the shardings that follow.

Parameters and activations carry the names of their axes; models know nothing else. The table says
over which mesh axis a name is cut. Order matters: the first rule whose mesh axis is still free in
an array wins.
"""

import contextlib
import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from gptjax.ops.backend import programs_for
from gptjax.ops.sequence_sharding import shard_sequences
from gptjax.parallel.config import MeshConfig
from gptjax.parallel.context import fitting, make_sequence_sharding
from gptjax.parallel.mesh import BATCH
from gptjax.parallel.schedules import Schedule, make_schedule

Rules = tuple[tuple[str, str | tuple[str, ...]], ...]

NOT_EXPERT = tuple(axis for axis in BATCH if axis != "expert")
"""The axes that still shard a batch whose tokens are with their experts."""


def table(config: MeshConfig) -> Rules:
    """Logical axis → mesh axes of activations and of parameters that mesh.zero does not shard."""
    cut: list[tuple[str, str | tuple[str, ...]]] = [
        ("batch", BATCH),
        ("heads", "tensor"),
        ("kv_heads", "tensor"),
        ("mlp", "tensor"),
        ("vocab", "tensor"),
        ("layers", "pipe"),
        ("experts", "expert"),
        ("dispatched", NOT_EXPERT),
    ]
    if config.sequence_parallel:
        cut.append(("seq", ("seq", "tensor")))
    return (*cut, ("seq", "seq"))


ZERO: Rules = (("embed", "fsdp"),)
"""Added for the arrays that mesh.zero cuts: every parameter has an axis of the model's width."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A mesh and its rules: where every array of a run lives.

    Attributes:
      mesh: the devices.
      config: the settings that the rules follow.
      axes: for every parameter the names of its axes, in the parameters' tree.
    """

    mesh: Mesh
    config: MeshConfig
    axes: Any

    @contextlib.contextmanager
    def context(self) -> Iterator[None]:
        """Within it, logical constraints mean this mesh, and programs are made for its devices."""
        rules, devices = table(self.config), self.mesh.devices.flat[0].platform
        spread = make_sequence_sharding(self.mesh, self.config.context, rules)
        with (
            jax.set_mesh(self.mesh),
            nn.logical_axis_rules(rules),
            shard_sequences(spread),
            programs_for(devices),
        ):
            yield

    @property
    def replicated(self) -> NamedSharding:
        """The sharding of what every device holds whole."""
        return NamedSharding(self.mesh, P())

    @property
    def batch(self) -> NamedSharding:
        """The sharding of an array whose first axis counts sequences of a batch."""
        return NamedSharding(self.mesh, P(BATCH))

    def params(self, tree: Any) -> Any:
        """Shardings of parameters (arrays or shapes)."""
        return self._shardings(tree, split=self.config.zero >= 3)

    def gradients(self, tree: Any) -> Any:
        """Shardings of gradients, in the tree of the parameters."""
        return self._shardings(tree, split=self.config.zero >= 2)

    def opt_state(self, tree: Any) -> Any:
        """Shardings of an optimizer's state.

        A leaf whose path holds that of a parameter and whose shape is the parameter's lies like it.
        Others (scales of quantized blocks, factored moments) are cut over fsdp along their first
        axis that it divides; scalars are whole everywhere.
        """
        return self._shardings(tree, split=self.config.zero >= 1)

    def constrain_gradients(self, grads: Any) -> Any:
        """Gradients as mesh.zero lays them: reduced to all, or scattered from stage 2 on."""
        return jax.lax.with_sharding_constraint(grads, self.gradients(grads))

    @property
    def stages(self) -> int:
        """Stages of the pipeline; 1 where there is none."""
        return self.mesh.shape["pipe"]

    def schedule(self, micro_batches: int) -> Schedule:
        """The pipeline's schedule for so many micro-batches."""
        config = self.config
        return make_schedule(config.schedule, self.stages, micro_batches, config.chunks)

    def put(self, tree: Any) -> Any:
        """Host arrays as arrays that every device holds whole."""
        return jax.tree.map(lambda x: _put(np.asarray(x), self.replicated), tree)

    def put_batch(self, x: np.ndarray) -> jax.Array:
        """A host batch, each device with its own rows."""
        return _put(x, self.batch)

    def _shardings(self, tree: Any, *, split: bool) -> Any:
        leaves = jax.tree_util.tree_leaves_with_path(self.axes, is_leaf=is_names)
        named = {_names_of(path): axes for path, axes in leaves}
        rules = table(self.config) + (ZERO if split else ())

        def one(path: tuple, leaf: Any) -> NamedSharding:
            axes = _owner(_names_of(path), named)
            if axes is None:
                return self.replicated
            if len(axes) == leaf.ndim:
                spec = nn.logical_to_mesh_axes(axes, rules)
            else:
                spec = _first_cut(leaf.shape, self.mesh.shape["fsdp"] if split else 1)
            return NamedSharding(self.mesh, fitting(spec, leaf.shape, self.mesh.shape))

        return jax.tree_util.tree_map_with_path(one, tree)


def is_names(leaf: Any) -> bool:
    """Whether a node of a tree of logical axes is one parameter's names."""
    return isinstance(leaf, tuple) and all(isinstance(name, str) for name in leaf)


def _names_of(path: tuple) -> tuple[str, ...]:
    """A path of any pytree as plain words."""
    return tuple(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def _owner(path: tuple[str, ...], named: Mapping[tuple[str, ...], Any]) -> Any:
    """The axes of the parameter whose whole path occurs in `path`, or None."""
    spans = ((i, j) for i in range(len(path)) for j in range(len(path), i, -1))
    return next((named[path[i:j]] for i, j in spans if path[i:j] in named), None)


def _first_cut(shape: tuple[int, ...], parts: int) -> P:
    """fsdp along the first axis that it divides."""
    at = next((i for i, size in enumerate(shape) if parts > 1 and size % parts == 0), None)
    return P() if at is None else P(*(None,) * at, "fsdp")


def _put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
    return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])
