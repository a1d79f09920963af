"""This machine's processor: its name and its instruction sets, beside which times are stated."""

import functools
import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")

WIDE = {"amx_bf16": "AMX", "avx512f": "AVX-512", "avx2": "AVX2"}
"""Flags of the kernel -> the instruction set that products use, the widest first."""


@functools.cache
def description() -> str:
    """Name, widest instruction set and cores, for example "AMD EPYC (AVX2), 2 cores"."""
    name = _entry("model name") or "unknown processor"
    widest = next((f" ({WIDE[flag]})" for flag in WIDE if flag in flags()), "")
    cores = os.cpu_count() or 1
    return f"{name}{widest}, {cores} core{'s' if cores > 1 else ''}"


def flags() -> frozenset[str]:
    """What the kernel says that the processor can do; empty where it does not say."""
    return frozenset(_entry("flags").split())


def _entry(name: str) -> str:
    """The first value of a name in CPUINFO, '' where there is none."""
    if not CPUINFO.exists():
        return ""
    for line in CPUINFO.read_text().splitlines():
        key, _, value = line.partition(":")
        if key.strip() == name:
            return value.strip()
    return ""
