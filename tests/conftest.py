"""Hooks for the whole suite: quick and shared compiling, bounded memory, checked shapes."""

import atexit
import ctypes
import gc
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

# Compiling takes most of the suite's time, and programs of a few microseconds gain nothing from
# optimisation: without it the same programs compile in a fifth of the time. Processes that tests
# start inherit the flags. They must be set before JAX looks for devices.
QUICK_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([*QUICK_COMPILE, os.environ.get("XLA_FLAGS", "")]).strip()

# All processes of one run share compiled programs; the first of them makes the folder and removes
# it, so that no run depends on an earlier one.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="gptjax-programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)
assert "jax" not in sys.modules, "a pytest plugin imported JAX before its variables were set"

# Traced programs are millions of objects that stay; looking through all of them for rubbish as
# often as Python does by default took a tenth of the suite's time.
gc.set_threshold(100_000, 50, 100)

import jaxtyping  # noqa: E402

# Shapes and types of the public functions in `ops` are checked at every call under test. The
# hook must be in place before anything imports them.
jaxtyping.install_import_hook("gptjax.ops", "beartype.beartype")

ENOUGH_MEGABYTES = 3000


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drop the compiled programs of finished files where they fill the memory of a worker."""
    yield
    if "jax" in sys.modules and _resident_megabytes() > ENOUGH_MEGABYTES:
        sys.modules["jax"].clear_caches()
        gc.collect()
        _give_back()


@pytest.fixture(autouse=True, scope="module")
def forget_sources():
    """Drop the sources that experiments registered which a file loaded: choices are counted."""
    from gptjax.data.sources import SOURCES

    before = dict(SOURCES)
    yield
    SOURCES.clear()
    SOURCES.update(before)


def _give_back() -> None:
    """Return freed pages to the system (glibc), so that the next file is not judged by them."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _resident_megabytes() -> float:
    """Memory of this process, 0 where the system does not say."""
    pages = Path("/proc/self/statm")
    if not pages.exists():
        return 0.0
    return int(pages.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
