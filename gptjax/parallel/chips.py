"""Published numbers of accelerators, and the names by which slices of them are rented."""

import dataclasses
import math
import re

from gptjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which is one JAX device, as published.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      memory: bytes of high-bandwidth memory.
      memory_rate: its bytes a second.
      network_rate: bytes a second over all links between chips of a slice.
      cores: by how much a slice's name counts a chip.
      dims: dimensions of a slice's network.
    """

    flops: float
    memory: float
    memory_rate: float
    network_rate: float
    cores: int
    dims: int


# Google Cloud, "TPU architecture": the pages of v4, v5e, v5p and v6e.
CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, cores=2, dims=3),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, cores=1, dims=2),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, cores=2, dims=3),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9, cores=1, dims=2),
}


@dataclasses.dataclass(frozen=True)
class Target:
    """A slice to compile for.

    Attributes:
      name: as rented, such as v5e-16.
      chip: what it is made of.
      topology: as the compiler wants it, such as v5e:4x4.
      devices: number of chips.
    """

    name: str
    chip: Chip
    topology: str
    devices: int


def parse_target(name: str) -> Target:
    """A slice from its name.

    >>> parse_target("v5e-16").topology, parse_target("v5p-512").topology
    ('v5e:4x4', 'v5p:4x8x8')

    Raises:
      UserError: for an unknown chip or a number of chips that is no slice.
    """
    match = re.fullmatch(r"(v\d+[a-z]*)-(\d+)", name)
    if not match or match[1] not in CHIPS:
        known = [f"{chip}-{16 * CHIPS[chip].cores}" for chip in CHIPS]
        raise UserError(f"config.target={name!r} is not known; {nearest(name, known)}")
    chip, number = CHIPS[match[1]], int(match[2])
    devices = number // chip.cores
    if devices < 4 or devices & (devices - 1) or number % chip.cores:
        lower = 2 ** max(2, int(math.log2(max(devices, 1)))) * chip.cores
        raise UserError(
            f"config.target={name} is no slice: chips come in powers of two from 4; "
            f"try {match[1]}-{lower} or {match[1]}-{2 * lower}"
        )
    return Target(name, chip, f"{match[1]}:{_shape(devices, chip.dims)}", devices)


def _shape(devices: int, dims: int) -> str:
    """The most cubic box of powers of two, small sides first; the smallest 3-D slice is 2x2x1."""
    exponent = devices.bit_length() - 1
    sides = sorted(2 ** (exponent // dims + (i < exponent % dims)) for i in range(dims))
    return "x".join(map(str, sides if devices > 4 or dims == 2 else (2, 2, 1)))
