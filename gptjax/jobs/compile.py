"""job=compile: the training step compiled for accelerators that are not there, with its cost.

Needs their compiler (pip install 'gptjax[tpu]' or 'gptjax[cuda]') and none of them. Memory is the
compiler's own count; FLOPs are counted by matrix product, because the compiler counts the body of a
loop over layers once.
"""

import dataclasses
from collections import defaultdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

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
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.parallel import Layout
from gptjax.train import layout_over


@dataclasses.dataclass(frozen=True)
class Settings:
    """The accelerators that job=compile compiles for, and job=plan_mesh lays meshes over."""

    target: str = setting(
        "",
        "a TPU slice such as v5e-16 or v5p-512, or GPUs in nodes of eight such as h100-16 (v4, "
        "v5e, v5p, v6e, a100, h100, h200)",
    )


def check(config: Config) -> None:
    """Refuse to compile for nothing."""
    parse_target(config.own["compile"].target)


def main(config: Config, folder: Path) -> int:
    """Compile, print and write `compile.json`; status 1 where the step does not fit."""
    target = parse_target(config.own["compile"].target)
    spec = run_spec(config)
    layout = layout_over(config.mesh, spec, topology_devices(target, spec))
    cost = compile_step(spec, layout)
    guess = guess_of(spec, layout, target)
    network = network_seconds(cost, layout.mesh.shape, target)
    print_cost(layout, target, cost, guess, network)
    write_json(folder / "compile.json", _as_json(layout, target, cost, guess, network))
    return 0 if cost.needed <= target.chip.memory else 1


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
