"""Compiled bytes on each of 1, 2, 4 and 8 simulated devices under ZeRO-0 to -3.

    python benchmarks/parallel.py

Compiles a step of a 4-layer, width-512 decoder and reads the compiler's own count; nothing runs.
Also prints the collectives of one step, and what a pipeline's schedules hold.
"""

import os

import jax

from gptjax.jobs.compile import compile_step
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.parallel import MeshConfig
from gptjax.train import RunSpec, layout_over

MODEL = ModelConfig(
    depth=4, width=512, num_heads=8, seq_len=256, vocab_size=8192, layers="scan", remat="block"
)
MIB = 2**20


def spec_of(batch_size: int, micro_batches: int = 1) -> RunSpec:
    return RunSpec(MODEL, OptimConfig(), batch_size, steps=1, micro_batches=micro_batches)


def zero() -> None:
    print("| devices | mesh.zero | parameters | optimizer state | temporary |")
    print("|---|---|---|---|---|")
    for devices in (1, 2, 4, 8):
        for stage in (0, 1, 2, 3) if devices > 1 else (0,):
            mesh = MeshConfig(data=1, fsdp=devices, zero=stage)
            spec = spec_of(8)
            cost = compile_step(spec, layout_over(mesh, spec, jax.devices()[:devices]))
            sizes = (cost.params, cost.opt_state, cost.temporary)
            cells = " | ".join(f"{size / MIB:.1f}" for size in sizes)
            print(f"| {devices} | {stage} | {cells} |", flush=True)


def pipelines() -> None:
    print("\n| schedule | micro-batches | bubble | temporary |\n|---|---|---|---|")
    for name in ("gpipe", "1f1b"):
        for micro_batches in (4, 16):
            mesh = MeshConfig(data=1, pipe=4, schedule=name)
            spec = spec_of(2 * micro_batches, micro_batches)
            layout = layout_over(mesh, spec, jax.devices()[:4])
            cost = compile_step(spec, layout)
            bubble = layout.schedule(micro_batches).bubble
            held = f"{cost.temporary / MIB:.1f}"
            print(f"| {name} | {micro_batches} | {bubble:.1%} | {held} |", flush=True)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    print("MiB on one device\n")
    zero()
    pipelines()
