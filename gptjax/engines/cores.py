"""CPU cores: how many workers a machine gets, and a core for each.

Imports nothing of the package that starts JAX: a process is pinned before that.
"""

import contextlib
import ctypes
import fcntl
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptjax.accelerators import computes_on_cpu
from gptjax.threads import available_cores


def pin(preferred: int | None) -> None:
    """Keep this process on one core, so that the runtime starts one thread and not one a core.

    Results must not depend on how many threads a matrix product is split over. The core is one that
    no other process of gptjax holds, `preferred` of those there are if possible; it is held by a
    file lock that ends with the process.
    """
    if preferred is None or not hasattr(os, "sched_setaffinity"):
        return
    cores = available_cores()
    first = preferred % len(cores)
    ordered = [*cores[first:], *cores[:first]]
    free = (core for core in ordered if _lock_core(core))
    os.sched_setaffinity(0, {next(free, ordered[0])})


def _lock_core(core: int) -> bool:
    """Whether the core is ours now; the descriptor stays open."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        descriptor = os.open(private_folder() / str(core), flags, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def private_folder() -> Path:
    """Where cores are locked: a folder that only this user can write, on this machine if possible.

    Anybody may have made one of its name in the folder for temporary files first.
    """
    shared = Path(tempfile.gettempdir(), f"gptjax-cores-{os.getuid()}")
    own = Path(os.path.expanduser("~/.cache/gptjax/cores"))  # relative where there is no home
    for place in (shared, own) if own.is_absolute() else (shared,):
        with contextlib.suppress(OSError):
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = place.lstat()
            if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
                place.chmod(0o700)
                return place
    return shared


SIMULATED = "--xla_force_host_platform_device_count"


def one_device_a_process() -> None:
    """Undo what a shell's variables would change in the numbers of a worker, before JAX starts.

    A simulated device gets a part of the threads, and arrays of 64 bits are another computation: a
    record would depend on them and not on its cell alone. With GPTJAX_SIMULATED_DEVICES a process
    gets that many devices; tests use it in the place of several accelerators.
    """
    flags = os.environ.get("XLA_FLAGS", "").split()
    kept = [flag for flag in flags if not flag.startswith(SIMULATED)]
    wanted = os.environ.get("GPTJAX_SIMULATED_DEVICES", "")
    if wanted:
        kept.append(f"{SIMULATED}={wanted}")
    os.environ["XLA_FLAGS"] = " ".join(kept)
    os.environ.pop("JAX_NUM_CPU_DEVICES", None)
    os.environ["JAX_ENABLE_X64"] = "0"


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
    return computes_on_cpu(config.general.device)
