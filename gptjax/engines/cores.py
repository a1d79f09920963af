"""CPU cores: how many workers a machine gets, and a core for each.

Imports nothing of the package that starts JAX: a process is pinned before that.
"""

import ctypes
import fcntl
import importlib.util
import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def pin(preferred: int | None) -> None:
    """Keep this process on one core, so that the runtime starts one thread and not one a core.

    Results must not depend on how many threads a matrix product is split over. The core is one that
    no other process of gptjax holds, `preferred` of those there are if possible; it is held by a
    file lock that ends with the process.
    """
    if preferred is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    first = preferred % len(cores)
    ordered = [*cores[first:], *cores[:first]]
    free = (core for core in ordered if _lock_core(core))
    os.sched_setaffinity(0, {next(free, ordered[0])})


def _lock_core(core: int) -> bool:
    """Whether the core is ours now; the descriptor stays open."""
    place = Path(tempfile.gettempdir(), f"gptjax-cores-{os.getuid()}")
    try:
        place.mkdir(exist_ok=True)
        descriptor = os.open(place / str(core), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def die_with_parent() -> None:
    """Ask the kernel for SIGTERM when the parent ends, however it ends (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def worker_count(config: Any, work: Sequence[Any]) -> int:
    """Processes on this machine: as configured, else one a core (one in all off the CPU)."""
    wanted = config.sweep.workers
    if wanted == 0:
        wanted = len(available_cores()) if only_cpu(config) else 1
    return max(1, min(wanted, len(work)))


def only_cpu(config: Any) -> bool:
    """Whether the workers will compute on the CPU, judged without starting JAX."""
    if config.general.device in ("gpu", "tpu"):
        return False
    if config.general.device == "cpu" or os.environ.get("JAX_PLATFORMS") == "cpu":
        return True
    plugins = ("jax_cuda13_plugin", "jax_cuda12_plugin", "libtpu", "jax_rocm7_plugin")
    return not any(importlib.util.find_spec(name) for name in plugins)


def available_cores() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))
