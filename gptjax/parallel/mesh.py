"""Device mesh of a config on the devices at hand, or a sentence about sizes that fit."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, AxisType, Mesh

from gptjax.errors import UserError
from gptjax.parallel.config import MeshConfig

AXES = ("data", "pipe", "fsdp", "expert", "seq", "tensor")
"""Outermost first: neighbours along the last axis are the nearest on the network."""

BATCH = ("data", "fsdp", "expert")
"""The axes that shard a batch."""


@dataclasses.dataclass(frozen=True)
class Cut:
    """A number of the config and the axes that must divide it.

    Attributes:
      name: the setting, as a user writes it.
      value: what is cut.
      axes: mesh axes whose product must divide it.
      pieces: parts that it is cut into first.
      piece: what these are called.
    """

    name: str
    value: int
    axes: tuple[str, ...]
    pieces: int = 1
    piece: str = "micro-batches"


def resolve(config: MeshConfig, devices: int) -> dict[str, int]:
    """The size of every axis, the one that is −1 filled up.

    >>> resolve(MeshConfig(tensor=2), 8)
    {'data': 4, 'pipe': 1, 'fsdp': 1, 'expert': 1, 'seq': 1, 'tensor': 2}

    Raises:
      UserError: when the sizes do not fit the number of devices.
    """
    sizes = {axis: getattr(config, axis) for axis in AXES}
    for axis, size in sizes.items():
        if size < 1 and size != -1:
            raise UserError(f"mesh.{axis}={size} is no size; give 1 or more, or -1 for the rest")
    open_axes = [axis for axis, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise UserError(
            f"mesh.{open_axes[0]}=-1 and mesh.{open_axes[1]}=-1 cannot both be the rest; "
            f"set mesh.{open_axes[1]}=1"
        )
    fixed = math.prod(size for size in sizes.values() if size != -1)
    wrong = devices % fixed != 0 if open_axes else fixed > devices
    if wrong:
        raise UserError(f"{_product(sizes)} {_do_not_fit(devices)}; {_smaller(sizes, devices)}")
    return {axis: devices // fixed if size == -1 else size for axis, size in sizes.items()}


def check_cuts(sizes: dict[str, int], cuts: Sequence[Cut]) -> None:
    """Refuse a mesh that would shard an axis unevenly.

    Raises:
      UserError: with the nearest sizes that fit, on either side.
    """
    for cut in cuts:
        parts = math.prod(sizes[axis] for axis in cut.axes)
        if cut.value % (parts * cut.pieces) == 0:
            continue
        used = [axis for axis in cut.axes if sizes[axis] > 1]
        words = " × ".join(f"mesh.{axis}={sizes[axis]}" for axis in used)
        inside = f" (in {cut.piece} of {cut.value / cut.pieces:g})" if cut.pieces > 1 else ""
        up = -(-cut.value // (parts * cut.pieces)) * parts * cut.pieces
        fits = [n for n in range(1, parts) if cut.value % (n * cut.pieces) == 0][-1]
        raise UserError(
            f"{cut.name}={cut.value}{inside} is not a multiple of {words}; set {cut.name}={up}, "
            f"or {f'mesh.{used[0]}={fits}' if len(used) == 1 else f'a product of {fits}'}"
        )


def make_mesh(sizes: dict[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """A mesh with these axes over the first devices, or over those given.

    Where devices belong to several slices or hosts' networks, `data` is the axis between slices.
    """
    from jax.experimental import mesh_utils

    found = list(jax.devices() if devices is None else devices)[: math.prod(sizes.values())]
    shape = tuple(sizes[axis] for axis in AXES)
    slices = len({getattr(device, "slice_index", 0) for device in found})
    if slices > 1 and sizes["data"] % slices == 0:
        inside = (sizes["data"] // slices, *shape[1:])
        between = (slices, *(1 for _ in shape[1:]))
        array = mesh_utils.create_hybrid_device_mesh(inside, between, devices=found)
    elif found[0].platform == "tpu":
        array = mesh_utils.create_device_mesh(shape, found, allow_split_physical_axes=True)
    else:
        array = np.array(found).reshape(shape)
    return Mesh(array, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def abstract_mesh(sizes: Mapping[str, int]) -> Any:
    """A mesh without devices, for shardings whose shapes alone are asked for."""
    return AbstractMesh(tuple(sizes.values()), tuple(sizes))


def _product(sizes: dict[str, int]) -> str:
    named = [f"mesh.{axis}={size}" for axis, size in sizes.items() if size not in (1, -1)]
    return " × ".join(named)


def _do_not_fit(devices: int) -> str:
    return f"{'does' if devices == 1 else 'do'} not fit {devices} device{'s' * (devices > 1)}"


def _smaller(sizes: dict[str, int], devices: int) -> str:
    """The largest axis cut down until the product divides the number of devices."""
    axis = max((axis for axis in sizes if sizes[axis] > 1), key=lambda axis: sizes[axis])
    others = math.prod(size for name, size in sizes.items() if name != axis and size > 0)
    fits = [n for n in range(1, sizes[axis]) if devices % (n * others) == 0]
    if fits:
        return f"try mesh.{axis}={fits[-1]}"
    return f"try mesh.{axis}=1 and smaller other axes"
