"""What a step needs on each of 1, 2, 4 and 8 simulated devices, by axis of the mesh.

    python benchmarks/parallel.py [zero pipelines contexts axes]

Compiles a step of a 4-layer, width-512 decoder and reads the compiler's own count; nothing runs.
`zero`: bytes under ZeRO-0 to -3. `pipelines`: what schedules hold. `contexts`: bytes of long
contexts cut by mesh.seq. `axes`: products and bytes sent, against what no layout could save.
"""

import dataclasses
import os
import sys
from collections.abc import Callable
from typing import Any

import jax

from gptjax import models
from gptjax.cost.compiled import compile_step
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


def contexts() -> None:
    print("\n| tokens | mesh.seq | ring | all_to_all |\n|---|---|---|---|")
    for seq_len in (8192, 32768):
        for parts in (1, 2, 4, 8):
            cells = [f"{_temporary(seq_len, parts, kind):.0f}" for kind in ("ring", "all_to_all")]
            print(f"| {seq_len} | {parts} | {' | '.join(cells)} |", flush=True)


def _temporary(seq_len: int, parts: int, kind: str) -> float:
    model = dataclasses.replace(MODEL, seq_len=seq_len)
    spec = RunSpec(model, OptimConfig(), batch_size=1, steps=1)
    mesh = MeshConfig(data=1, seq=parts, context=kind)
    return compile_step(spec, layout_over(mesh, spec, jax.devices()[:parts])).temporary / MIB


def _ideal_bytes() -> dict[str, Callable[[int], float]]:
    """Bytes that a device must send in a step of `axes`, by parts n of the axis.

    data: the gradients, reduced to all; fsdp: parameters gathered twice and gradients scattered;
    tensor: in each block four all-reduces of the stream (Megatron-LM); seq: keys and values go
    around in both passes and their gradients once, or four exchanges in each pass, and the
    gradients of the parameters are reduced to all.
    """
    params = 4.0 * models.count_params(PLAIN).total
    stream = 4.0 * AXES_BATCH * PLAIN.seq_len * PLAIN.width
    layers = PLAIN.depth

    def reduced(n: int) -> float:
        return 2 * (n - 1) / n * params

    return {
        "data": reduced,
        "fsdp": lambda n: 3 * (n - 1) / n * params,
        "tensor": lambda n: layers * 4 * 2 * (n - 1) / n * stream,
        "tensor, sequence_parallel": lambda n: layers * 10 * (n - 1) / n * stream,
        "seq, ring": lambda n: reduced(n) + layers * (3 * n - 2) * 2 * stream / n,
        "seq, all_to_all": lambda n: reduced(n) + layers * 8 * (n - 1) / n**2 * stream,
    }


PLAIN = dataclasses.replace(MODEL, remat="none", attention_impl="dense")
AXES_BATCH = 8


def axes() -> None:
    meshes: dict[str, dict[str, Any]] = {
        "data": {"data": -1},
        "fsdp": {"data": 1, "fsdp": -1},
        "tensor": {"data": 1, "tensor": -1},
        "tensor, sequence_parallel": {"data": 1, "tensor": -1, "sequence_parallel": True},
        "seq, ring": {"data": 1, "seq": -1},
        "seq, all_to_all": {"data": 1, "seq": -1, "context": "all_to_all"},
    }
    spec = RunSpec(PLAIN, OptimConfig(), AXES_BATCH, steps=1)
    one = compile_step(spec, layout_over(MeshConfig(data=1), spec, jax.devices()[:1]))
    least = _ideal_bytes()
    print("\n| axis | devices | GFLOP | over 1/n | MiB sent | least | ratio |")
    print("|---|---|---|---|---|---|---|")
    for name, sizes in meshes.items():
        for devices in (2, 8):
            mesh = MeshConfig(**sizes)
            cost = compile_step(spec, layout_over(mesh, spec, jax.devices()[:devices]))
            assert cost.products and one.products
            sent, ideal = sum(x.sent for x in cost.traffic) / MIB, least[name](devices) / MIB
            print(
                f"| {name} | {devices} | {cost.products / 1e9:.2f} "
                f"| {cost.products * devices / one.products:.2f} "
                f"| {sent:.1f} | {ideal:.1f} | {sent / ideal:.2f} |",
                flush=True,
            )


PARTS = {"zero": zero, "pipelines": pipelines, "contexts": contexts, "axes": axes}

if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    jax.config.update("jax_num_cpu_devices", 8)
    print("MiB on one device\n")
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()
