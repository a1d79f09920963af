"""Collectives of a compiled program, from its text: how many run in a step, over which axes."""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
WIDTHS = {
    "pred": 1,
    "s8": 1,
    "u8": 1,
    "bf16": 2,
    "f16": 2,
    "s16": 2,
    "u16": 2,
    "f64": 8,
    "s64": 8,
    "u64": 8,
}

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_OPERATION = re.compile(r"= (\(*[a-z0-9]+\[.*?) (" + "|".join(KINDS) + r")(-start)?\((?!.*-done\()")
_CALLED = re.compile(r"(?:to_apply|calls|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')
_ARRAY = re.compile(r"([a-z]+[0-9]*)\[([0-9,]*)\]")
_GROUPS = re.compile(r"replica_groups=\{\{([0-9,]+)\}")
_IOTA = re.compile(r"replica_groups=\[(\d+),(\d+)\]<=\[([0-9,]+)\](?:T\(([0-9,]+)\))?")
_MESH = re.compile(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}")
_PART = re.compile(r"'([^']+)'(?::\((\d+)\)(\d+))?")
_BOUND = re.compile(r"s32\[\]\S* constant\((\d+)\)")
_WHILE = re.compile(r" while\(.*condition=%?([\w.\-]+), body=%?([\w.\-]+)")
_DEFINED = re.compile(r"^\s*(?:ROOT )?%?([\w.\-]+) = [a-z0-9]+\[([0-9,]*)\]")
_DOT = re.compile(
    r"= [a-z0-9]+\[([0-9,]*)\]\S* dot\((?:\S+ )?%?([\w.\-]+),.*lhs_contracting_dims=\{([0-9,]*)\}"
)
_CHANNEL = re.compile(r"channel_id=(\d+)")
_PAIRS = re.compile(r"source_target_pairs=\{\{(\d+),(\d+)\}")


@dataclasses.dataclass(frozen=True)
class Collective:
    """One collective of a program.

    Attributes:
      kind: one of KINDS.
      axes: mesh axes that its groups of devices run along.
      group: devices in a group.
      size: bytes of its result on one device.
      times: how often it runs in one call of the program (loops with a known length counted).
    """

    kind: str
    axes: tuple[str, ...]
    group: int
    size: int
    times: int

    @property
    def sent(self) -> float:
        """Bytes that a device sends in one call, by the ring algorithms."""
        share = (self.group - 1) / self.group
        factor = {
            "all-reduce": 2 * share,
            "all-gather": share,
            "reduce-scatter": self.group - 1,
            "all-to-all": share,
            "collective-permute": 1,
        }[self.kind]
        return factor * self.size * self.times


def collectives(text: str, mesh: Mapping[str, int]) -> list[Collective]:
    """Every collective in the text of a compiled program, those within loops too.

    Args:
      text: `compiled.as_text()`.
      mesh: sizes of the mesh's axes, outermost first, in the order of the program's devices.
    """
    bodies, entry = _computations(text)
    times = _times(bodies, entry)
    fusions = {name for lines in bodies.values() for line in lines for name in _fused(line)}
    found: dict[Any, Collective] = {}
    for name, lines in bodies.items():
        for number, line in enumerate(lines):
            match = _OPERATION.search(line)
            if match and times[name]:
                devices = _group(line)
                size = _bytes(match[1], match[2] if match[3] else "")
                axes = _axes(devices, mesh)
                kind = match[2]
                if name.startswith("all-reduce-scatter"):
                    # A TPU's reduce-scatter: an all-reduce fused with the slice of its result.
                    kind, size = "reduce-scatter", size // len(devices)
                one = Collective(kind, axes, len(devices), size, times[name])
                channel = _CHANNEL.search(line)
                key = channel[1] if channel and name in fusions else (name, number)
                # A collective that runs beside other work is written in the fusion that starts it,
                # in those beside which it runs and in the one that ends it; it starts as often as
                # the rarest of them runs.
                if key not in found or one.times < found[key].times:
                    found[key] = one
    return [one for one in found.values() if one.group > 1]


def _fused(line: str) -> list[str]:
    return _CALLED.findall(line) if " fusion(" in line else []


def product_flops(text: str) -> float:
    """FLOPs of all matrix products that one device does in a call of a compiled program.

    Two for each multiplication; those within loops too, and of a branch every side.
    """
    bodies, entry = _computations(text)
    times = _times(bodies, entry)
    total = 0.0
    for name, lines in bodies.items():
        defined = {match[1]: _sizes(match[2]) for match in map(_DEFINED.match, lines) if match}
        for match in filter(None, map(_DOT.search, lines)):
            contracted = [defined[match[2]][i] for i in _sizes(match[3])]
            total += 2.0 * times[name] * math.prod(_sizes(match[1])) * math.prod(contracted)
    return total


def _sizes(numbers: str) -> list[int]:
    return [int(n) for n in numbers.split(",") if n]


def _computations(text: str) -> tuple[dict[str, list[str]], str]:
    """Lines by computation, and the name of the entry."""
    bodies: dict[str, list[str]] = {}
    entry = current = ""
    for line in text.splitlines():
        match = _COMPUTATION.match(line)
        if match:
            current = match[2]
            bodies[current] = []
            entry = current if match[1] else entry
        elif current:
            bodies[current].append(line)
    return bodies, entry


def _times(bodies: dict[str, list[str]], entry: str) -> Counter:
    """How often each computation runs; a loop of unknown length counts once."""
    times: Counter = Counter()

    def visit(name: str, factor: int) -> None:
        times[name] += factor
        for line in bodies.get(name, ()):
            for called, count in _calls(line, bodies):
                visit(called, factor * count)

    visit(entry, 1)
    return times


def _calls(line: str, bodies: dict[str, list[str]]) -> Iterator[tuple[str, int]]:
    loop = _WHILE.search(line)
    if loop:
        yield loop[2], _trips(line, bodies.get(loop[1], []))
        return
    yield from ((called, 1) for called in _CALLED.findall(line))
    branches = _BRANCHES.search(line)
    if branches:
        yield from ((name.strip().lstrip("%"), 1) for name in branches[1].split(","))


def _trips(line: str, condition: list[str]) -> int:
    """As the compiler says; else the one constant that the loop's counter is compared with."""
    known = _TRIPS.search(line)
    if known:
        return int(known[1])
    bounds = [int(match[1]) for match in map(_BOUND.search, condition) if match]
    return bounds[0] if len(bounds) == 1 else 1


def _bytes(shapes: str, started: str) -> int:
    """Bytes of a result. A started operation (its kind) has its inputs before its results, several
    of each in tuples of their own, but for all-reduce, which has results alone."""
    if started and shapes.startswith("(("):
        shapes = shapes.partition("), (")[2]
    sizes = [
        WIDTHS.get(kind, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for kind, dims in _ARRAY.findall(shapes)
    ]
    pair = started and started != "all-reduce" and shapes.startswith("(")
    return max(sizes) if pair else sum(sizes)


def _group(line: str) -> list[int]:
    """The devices of the first group."""
    if match := _GROUPS.search(line):
        return [int(n) for n in match[1].split(",")]
    if match := _IOTA.search(line):
        rows, columns = int(match[1]), int(match[2])
        dims = [int(n) for n in match[3].split(",")]
        order = [int(n) for n in match[4].split(",")] if match[4] else range(len(dims))
        numbers = np.arange(math.prod(dims)).reshape(dims).transpose(tuple(order))
        return numbers.reshape(rows, columns)[0].tolist()
    if match := _MESH.search(line):
        return _along(match[1], match[2])
    if match := _PAIRS.search(line):
        return [int(match[1]), int(match[2])]
    return [0]


def _along(mesh: str, axes: str) -> list[int]:
    """The first group of `mesh['a'=2,'b'=4] {'b'}`; `'b':(2)2` is a part of an axis."""
    sizes = {name: int(size) for name, size in re.findall(r"'([^']+)'=(\d+)", mesh)}
    devices = [0]
    for name, before, part in _PART.findall(axes):
        after = list(sizes)[list(sizes).index(name) + 1 :]
        stride, count = math.prod(sizes[other] for other in after), sizes[name]
        if part:
            stride, count = stride * (count // (int(before) * int(part))), int(part)
        devices = [device + stride * i for device in devices for i in range(count)]
    return devices


def _axes(devices: list[int], mesh: Mapping[str, int]) -> tuple[str, ...]:
    """The axes along which the devices of a group differ."""
    if math.prod(mesh.values()) <= max(devices):
        return ()
    places = np.unravel_index(np.array(devices), tuple(mesh.values()))
    return tuple(
        axis for axis, place in zip(mesh, places, strict=True) if len(set(place.tolist())) > 1
    )
