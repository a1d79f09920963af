"""job=compile: the training step compiled for accelerators that are not there, with its cost.

Needs their compiler (pip install 'gptjax[tpu]' or 'gptjax[cuda]') and none of them. Memory is the
compiler's own count; FLOPs are counted by matrix product, because the compiler counts the body of a
loop over layers once.
"""

import dataclasses
import functools
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
from rich.console import Console
from rich.table import Table

from gptjax import models
from gptjax.align import lora
from gptjax.align.lora import LoraConfig
from gptjax.config import Config, run_spec
from gptjax.cost.chips import Target, parse_target
from gptjax.cost.compiled import (
    GIB,
    Cost,
    compile_step,
    guess_of,
    network_seconds,
    topology_devices,
)
from gptjax.cost.roofline import Estimate
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.models import ModelConfig
from gptjax.optim import trainable
from gptjax.parallel import Layout
from gptjax.quant.config import QuantizeConfig
from gptjax.quant.methods import METHODS
from gptjax.quant.quantize import quantized_shapes, uniform_bits
from gptjax.train import layout_over


@dataclasses.dataclass(frozen=True)
class Settings:
    """The accelerators that job=compile compiles for, and job=plan_mesh lays meshes over."""

    target: str = setting(
        "",
        "a TPU slice such as v5e-16 or v5p-512, or GPUs in nodes of eight such as h100-16 (v4, "
        "v5e, v5p, v6e, l4, l40s, a100, h100, h200)",
    )
    base: str = setting(
        "",
        "codes of the base under finetune.lora (QLoRA), bits and groups as the quantize section "
        "says; empty: a base of floats",
        choices=("", *(name for name, method in METHODS.items() if not method.calibrated)),
    )


def check(config: Config) -> None:
    """Refuse to compile for nothing, and codes without adapters."""
    parse_target(config.own["compile"].target)
    if config.own["compile"].base and not config.own["finetune"].lora.rank:
        raise UserError(
            f"compile.base={config.own['compile'].base} is quantized, and codes of weights are not "
            "trained; set finetune.lora.rank=16 for adapters over them"
        )


def main(config: Config, folder: Path) -> int:
    """Compile, print and write `compile.json`; status 1 where the step does not fit."""
    target = parse_target(config.own["compile"].target)
    if config.own["finetune"].lora.rank:
        return _adapted(config, target, folder)
    spec = run_spec(config)
    layout = layout_over(config.mesh, spec, topology_devices(target, spec))
    cost = compile_step(spec, layout)
    guess = guess_of(spec, layout, target)
    network = network_seconds(cost, layout.mesh.shape, target)
    print_cost(layout, target, cost, guess, network)
    write_json(folder / "compile.json", _as_json(layout, target, cost, guess, network))
    return 0 if cost.needed <= target.chip.memory else 1


def _adapted(config: Config, target: Target, folder: Path) -> int:
    """The same of adapters over a base that stays: what job=finetune trains with finetune.lora."""
    settings: LoraConfig = config.own["finetune"].lora
    optim = dataclasses.replace(config.optim, frozen=lora.frozen(config.optim, settings))
    spec = run_spec(dataclasses.replace(config, optim=optim))
    layout = layout_over(config.mesh, spec, topology_devices(target, spec))
    method = config.own["compile"].base
    quantized = dataclasses.replace(config.own["quantize"], method=method) if method else None
    params = adapted_shapes(spec.model, settings, quantized)
    cost = compile_step(spec, layout, params)
    trained = sum(leaf.size for leaf in jax.tree.leaves(trainable(params, spec.optim.frozen)))
    base = f"a base in {method}" if method else "a base of floats"
    print(f"{target.name}: {base}, {trained:,} parameters in adapters of rank {settings.rank}")
    fits = cost.needed <= target.chip.memory
    table = Table("per device", "GiB", title_justify="left", header_style="bold")
    rows = {
        "base and adapters": cost.params,
        "optimizer state": cost.opt_state,
        "activations, gradients, buffers": cost.temporary,
        "needed": cost.needed,
        "there is": target.chip.memory,
    }
    for name, size in rows.items():
        table.add_row(name, f"{size / GIB:.2f}")
    Console(width=100).print(table)
    print(
        "it fits"
        if fits
        else "it does not fit; lower train.batch_size or model.seq_len, or set "
        "train.micro_batches, train.loss_chunk or model.remat=block"
    )
    found = {
        "target": target.name,
        "base": method,
        "rank": settings.rank,
        "trained_parameters": trained,
        "memory_bytes": target.chip.memory,
        "fits": fits,
        **dataclasses.asdict(cost),
    }
    write_json(folder / "compile.json", found)
    return 0 if fits else 1


def adapted_shapes(
    config: ModelConfig, settings: LoraConfig, quantized: QuantizeConfig | None
) -> Any:
    """Shapes of a base with adapters at `settings.targets`; nothing of the base is allocated.

    Args:
      quantized: how the base is quantized; None: it is not.
    """
    key = jax.random.key(0)
    params = jax.eval_shape(functools.partial(models.init, config), key)
    if quantized is not None:
        bits = uniform_bits(config, quantized)
        params = quantized_shapes(config, params, quantized, bits)
    adapted = lora.attached(config, params, settings, key)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), adapted)


def print_cost(layout: Layout, target: Target, cost: Cost, guess: Estimate, network: float) -> None:
    """A table of memory and one of traffic, and the estimate of a step's time."""
    console = Console(width=100)
    sizes = " × ".join(f"{axis} {n}" for axis, n in layout.mesh.shape.items() if n > 1)
    print(f"{target.name}: {target.devices} devices as {target.topology}, mesh {sizes or 'of one'}")
    held = guess.held
    table = Table("per device", "GiB", "estimated", title_justify="left", header_style="bold")
    rest = held.total - held.params - held.opt_state
    rows = {
        "parameters": (cost.params, held.params),
        "optimizer state": (cost.opt_state, held.opt_state),
        "activations, gradients, buffers": (cost.temporary, rest),
        "needed": (cost.needed, held.total),
    }
    for name, pair in rows.items():
        table.add_row(name, *(f"{size / GIB:.2f}" if size else "" for size in pair))
    table.add_row("there is", f"{target.chip.memory / GIB:.2f}", "")
    console.print(table)
    fits = cost.needed <= target.chip.memory
    print(
        "it fits"
        if fits
        else "it does not fit; cut the state by mesh.fsdp, mesh.tensor or "
        "mesh.pipe, the batch by train.micro_batches, or set model.remat=block"
    )
    _print_traffic(console, cost)
    _print_time(cost, guess, network)


def _print_traffic(console: Console, cost: Cost) -> None:
    sums: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])
    for one in cost.traffic:
        entry = sums[one.kind, "+".join(one.axes)]
        entry[0] += one.times
        entry[1] += one.sent
    if sums:
        table = Table("collective", "axis", "a step", "MiB sent by a device", header_style="bold")
        for (kind, axes), (times, sent) in sorted(sums.items()):
            table.add_row(kind, axes, str(times), f"{sent / 2**20:,.1f}")
        console.print(table)


def _print_time(cost: Cost, guess: Estimate, network: float) -> None:
    seconds = guess.seconds
    local = max(seconds.compute, seconds.memory)
    best, worst = max(local, network), local + network
    print(
        f"{cost.flops:.3g} FLOPs a step, {seconds.ideal:.3g} s at the published rates; with what "
        f"is computed again and a pipeline's bubble {seconds.compute:.3g} s of arithmetic, beside "
        f"{seconds.memory:.3g} s of memory traffic (both estimated)"
    )
    if cost.traffic:
        print(
            f"{network:.3g} s of network: a step takes between {best:.3g} s (all hidden) and "
            f"{worst:.3g} s (none), model FLOPs utilisation {seconds.ideal / best:.0%} to "
            f"{seconds.ideal / worst:.0%}"
        )


def _as_json(
    layout: Layout, target: Target, cost: Cost, guess: Estimate, network: float
) -> dict[str, Any]:
    return {
        "target": target.name,
        "devices": target.devices,
        "mesh": dict(layout.mesh.shape),
        "memory_bytes": target.chip.memory,
        "fits": cost.needed <= target.chip.memory,
        "seconds": {
            "ideal": guess.seconds.ideal,
            "compute": guess.seconds.compute,
            "memory": guess.seconds.memory,
            "network": network,
        },
        "estimated": {**dataclasses.asdict(guess.held), "needed": guess.held.total},
        **dataclasses.asdict(cost),
    }


JOB = Job(main, Settings, check, one_run=True)
