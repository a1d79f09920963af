"""Hooks for the whole suite: programs that compile quickly, and checked shapes in `ops`."""

import os

# Compiling takes most of the suite's time, and programs of a few microseconds gain nothing from
# optimisation: without it the same programs compile in a seventh of the time. Processes that tests
# start inherit the flags. They must be set before JAX looks for devices.
QUICK_COMPILE = (
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
    "--xla_cpu_use_fusion_emitters=false",
)
os.environ["XLA_FLAGS"] = " ".join([*QUICK_COMPILE, os.environ.get("XLA_FLAGS", "")]).strip()

import jaxtyping  # noqa: E402

# Shapes and types of the public functions in `ops` are checked at every call under test. The
# hook must be in place before anything imports them.
jaxtyping.install_import_hook("gptjax.ops", "beartype.beartype")
