"""The environment of a run: the software and hardware that its last digits depend on.

A record carries it, so that cells whose numbers come from different compilers or devices are not
fitted together without a word.
"""

import os
import platform
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import gptjax

IN_KIND = ("jax", "jaxlib", "platform")
"""Where these differ, numbers differ by more than the last digits: in versions, the first two
parts."""


def environment() -> dict[str, str]:
    """Versions, device and processor of this process; starts JAX."""
    import jax
    import jaxlib

    device = jax.local_devices()[0]
    return {
        "gptjax": gptjax.__version__,
        "jax": jax.__version__,
        "jaxlib": jaxlib.__version__,
        "python": platform.python_version(),
        "platform": device.platform,
        "device": device.device_kind,
        "processor": processor(),
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def processor() -> str:
    """The name of the processor, as its system tells."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def kinds(environments: Iterable[Mapping[str, Any]]) -> Counter[str]:
    """How many runs come from each kind of environment whose numbers differ."""
    return Counter(_kind(one) for one in environments)


def differences(environments: Iterable[Mapping[str, Any]]) -> dict[str, list[str]]:
    """The entries that differ, with their values; empty where all are alike."""
    found: dict[str, dict[str, None]] = {}
    for one in environments:
        for name, value in one.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: list(values) for name, values in found.items() if len(values) > 1}


def _kind(one: Mapping[str, Any]) -> str:
    words = []
    for name in IN_KIND:
        value = str(one.get(name, "unknown"))
        parts = value.split(".")
        words.append(value if name == "platform" else f"{name} {'.'.join(parts[:2])}")
    return f"{words[0]} and {words[1]} on {words[2]}"
