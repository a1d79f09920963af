"""Published numbers of accelerators, and the names by which they are rented."""

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence

from gptjax.errors import UserError, nearest


@dataclasses.dataclass(frozen=True)
class Chip:
    """One chip, which is one JAX device, as published.

    Attributes:
      flops: dense bfloat16 FLOP/s.
      memory: bytes of high-bandwidth memory.
      memory_rate: its bytes a second.
      network_rate: bytes a second over all links between chips of a slice, or of a node.
      cores: by how much a slice's name counts a chip.
      dims: dimensions of a slice's network.
      platform: tpu or gpu.
      mode: what else the compiler is told: for a TPU how its cores are one device, for a GPU its
        description.
      node: devices that share network_rate; 0: all of a slice.
      node_rate: bytes a second of a device to other nodes.
    """

    flops: float
    memory: float
    memory_rate: float
    network_rate: float
    cores: int = 1
    dims: int = 0
    platform: str = "tpu"
    mode: str = "default"
    node: int = 0
    node_rate: float = 0.0

    def rate(self, axes: Sequence[str], sizes: Mapping[str, int]) -> float:
        """Bytes a second along axes of a mesh, whose sizes are given outermost first.

        A mesh is laid over nodes in that order, so an axis is inside a node where it and those
        within it fill no more than one.
        """
        names = list(sizes)
        outermost = min((names.index(axis) for axis in axes if axis in sizes), default=0)
        extent = math.prod(sizes[name] for name in names[outermost:])
        return self.node_rate if self.node and extent > self.node else self.network_rate


def _gpu(
    name: str,
    flops: float,
    memory: int,
    memory_rate: float,
    links: float,
    between: float,
    capability: int,
    cores: int,
    lanes: int,
    shared: int,
    cache: int,
    clock: float,
    threads: int = 2048,
) -> Chip:
    """A GPU in nodes of eight, and its description as XLA's compiler reads it."""
    mode = f"""
        gpu_device_info {{
          threads_per_block_limit: 1024 threads_per_warp: 32 threads_per_core_limit: {threads}
          shared_memory_per_block: 49152 shared_memory_per_core: {shared + 1024}
          shared_memory_per_block_optin: {shared} core_count: {cores} fpus_per_core: {lanes}
          block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
          memory_bandwidth: {memory_rate:.0f} l2_cache_size: {cache} clock_rate_ghz: {clock}
          device_memory_size: {memory} registers_per_core_limit: 65536
          registers_per_block_limit: 65536
          cuda_compute_capability {{ major: {capability // 10} minor: {capability % 10} }}
        }}
        platform_name: "CUDA" dnn_version_info {{ major: 9 minor: 8 }}
        runtime_version {{ major: 12 minor: 8 }} device_description_str: "{name}"
    """
    return Chip(
        flops, memory, memory_rate, links, platform="gpu", mode=mode, node=8, node_rate=between
    )


# Google Cloud, "TPU architecture": the pages of v4, v5e, v5p and v6e.
# NVIDIA, data sheets and architecture white papers of A100, H100 and H200 (SXM): NVLink in one
# direction, and one network card of 200 or 400 Gbit/s for each GPU; of L4 and L40S, the cards of 24
# and 48 GB: PCIe 4.0 × 16 in one direction, and 100 Gbit/s for each GPU.
CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1228e9, 300e9, cores=2, dims=3, mode="megacore"),
    "v5e": Chip(197e12, 16 * 2**30, 819e9, 200e9, cores=1, dims=2),
    "v5p": Chip(459e12, 95 * 2**30, 2765e9, 600e9, cores=2, dims=3),
    "v6e": Chip(918e12, 32 * 2**30, 1640e9, 448e9, cores=1, dims=2),
    "a100": _gpu(
        "NVIDIA A100-SXM4-80GB",
        312e12,
        80 * 10**9,
        2039e9,
        300e9,
        25e9,
        capability=80,
        cores=108,
        lanes=64,
        shared=166912,
        cache=40 * 2**20,
        clock=1.41,
    ),
    "h100": _gpu(
        "NVIDIA H100 80GB HBM3",
        989e12,
        80 * 10**9,
        3350e9,
        450e9,
        50e9,
        capability=90,
        cores=132,
        lanes=128,
        shared=232448,
        cache=50 * 2**20,
        clock=1.98,
    ),
    "h200": _gpu(
        "NVIDIA H200",
        989e12,
        141 * 10**9,
        4800e9,
        450e9,
        50e9,
        capability=90,
        cores=132,
        lanes=128,
        shared=232448,
        cache=50 * 2**20,
        clock=1.98,
    ),
    "l4": _gpu(
        "NVIDIA L4",
        121e12,
        24 * 10**9,
        300e9,
        32e9,
        12.5e9,
        capability=89,
        cores=58,
        lanes=128,
        shared=101376,
        cache=48 * 2**20,
        clock=2.04,
        threads=1536,
    ),
    "l40s": _gpu(
        "NVIDIA L40S",
        362e12,
        48 * 10**9,
        864e9,
        32e9,
        12.5e9,
        capability=89,
        cores=142,
        lanes=128,
        shared=101376,
        cache=96 * 2**20,
        clock=2.52,
        threads=1536,
    ),
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
    """A slice, or a number of GPUs in nodes of eight, from its name.

    >>> [parse_target(name).topology for name in ("v5e-16", "v5p-512", "h100-16")]
    ['v5e:4x4', 'v5p:4x8x8', '1x2x8']

    Raises:
      UserError: for an unknown chip or a number of chips that is no slice.
    """
    if not name:
        raise UserError("compile.target='' names no slice; give --config.compile.target=v5e-16")
    match = re.fullmatch(r"([a-z]\d+[a-z]*)-(\d+)", name)
    if not match or match[1] not in CHIPS:
        known = [f"{name}-{16 * chip.cores}" for name, chip in CHIPS.items()]
        raise UserError(f"compile.target={name!r} is not known; {nearest(name, known)}")
    chip, number = CHIPS[match[1]], int(match[2])
    if chip.platform == "gpu":
        return Target(name, chip, _nodes(match[1], number, chip.node), number)
    devices = number // chip.cores
    if devices < 4 or devices & (devices - 1) or number % chip.cores:
        lower = 2 ** max(2, int(math.log2(max(devices, 1)))) * chip.cores
        raise UserError(
            f"compile.target={name} is no slice: chips come in powers of two from 4; "
            f"try {match[1]}-{lower} or {match[1]}-{2 * lower}"
        )
    return Target(name, chip, f"{match[1]}:{_shape(devices, chip.dims)}", devices)


def _nodes(kind: str, number: int, node: int) -> str:
    """Slices × nodes × GPUs in a node."""
    if number < 1 or (number > node and number % node):
        lower = max(1, number // node * node)
        raise UserError(
            f"compile.target={kind}-{number} is no number of GPUs in nodes of {node}; try "
            f"{kind}-{lower} or {kind}-{lower + node}"
        )
    return f"1x{max(1, number // node)}x{min(number, node)}"


def _shape(devices: int, dims: int) -> str:
    """The most cubic box of powers of two, small sides first; the smallest 3-D slice is 2x2x1."""
    exponent = devices.bit_length() - 1
    sides = sorted(2 ** (exponent // dims + (i < exponent % dims)) for i in range(dims))
    return "x".join(map(str, sides if devices > 4 or dims == 2 else (2, 2, 1)))
