"""job=plan_mesh: the fastest mesh and rematerialisation that fit a slice, and why not the others.

Every shape of the mesh and every policy is estimated from the sizes of its arrays; of those that
seem to fit, the compiler is asked about the fastest few, where one is installed.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from gptjax.accelerators import ACCELERATORS
from gptjax.config import Config, run_spec
from gptjax.cost import compiled
from gptjax.cost.chips import Chip, Target, parse_target
from gptjax.cost.flops import training_flops_per_token
from gptjax.cost.roofline import TRAFFIC, Estimate, estimate
from gptjax.errors import UserError
from gptjax.fields import setting
from gptjax.files import write_json
from gptjax.job import Job
from gptjax.models.remat import ON_DEVICE
from gptjax.parallel import AXES, MeshConfig
from gptjax.train import RunSpec, layout_over

SHOWN = 12


@dataclasses.dataclass(frozen=True)
class Compiled:
    """The compiler's count beside an estimate.

    Attributes:
      needed: bytes on one device.
      seconds: of a step, with the network's part from the collectives of the program.
    """

    guess: Estimate
    needed: float
    seconds: float


@dataclasses.dataclass(frozen=True)
class Settings:
    """How job=plan_mesh searches for the devices of `compile.target`."""

    compiled: int = setting(
        3, "how many of the fastest meshes are compiled; 0 = they are only estimated", minimum=0
    )


def check(config: Config) -> None:
    """Refuse to search for nothing."""
    parse_target(config.own["compile"].target)


def main(config: Config, folder: Path) -> int:
    """Search, compile, print and write `plan_mesh.json`; status 1 where nothing fits."""
    target = parse_target(config.own["compile"].target)
    spec = run_spec(config)
    found = search(spec, config.mesh, target.devices, target.chip)
    if not found:
        raise UserError(
            f"train.batch_size={spec.batch_size} cannot be laid over {target.name}'s "
            f"{target.devices} devices by any mesh; set train.batch_size="
            f"{target.devices * spec.micro_batches}, or a smaller compile.target"
        )
    best = [one for one in found if fits(one, target.chip)][: config.own["plan_mesh"].compiled]
    words = _from_compiler(spec, config.mesh, target, best)
    chosen = choose(found, words, target.chip)
    _print(target, found, words, chosen)
    write_json(folder / "plan_mesh.json", _as_json(target, found, words, chosen))
    return 0 if chosen else 1


def search(spec: RunSpec, config: MeshConfig, devices: int, chip: Chip) -> list[Estimate]:
    """Estimates of every mesh that divides the run, the fastest first.

    Settings of the mesh beside its sizes (zero, schedule, sequence_parallel) stay as they are.
    """
    return sorted(_estimates(spec, config, devices, chip), key=_order)


def _order(one: Estimate) -> tuple[float, int, float]:
    """By time; of equals the one that cuts the model least, then the smallest."""
    cut = math.prod(size for axis, size in one.sizes.items() if axis != "data")
    return float(f"{one.seconds.total:.6g}"), cut, one.held.total


def _estimates(spec: RunSpec, config: MeshConfig, devices: int, chip: Chip) -> Iterator[Estimate]:
    flops = training_flops_per_token(spec.model, spec.optim.cost)
    for sizes in factorizations(devices, [axis for axis in AXES if axis in TRAFFIC]):
        mesh = with_sizes(config, sizes)
        for remat in ON_DEVICE:
            try:
                yield estimate(with_remat(spec, remat), mesh, devices, chip, flops)
            except UserError:
                break


def factorizations(number: int, axes: Sequence[str]) -> Iterator[dict[str, int]]:
    """Every way to write a number as a product of the axes' sizes.

    >>> [tuple(sizes.values()) for sizes in factorizations(4, ["data", "fsdp"])]
    [(1, 4), (2, 2), (4, 1)]
    """
    first, *rest = axes
    if not rest:
        yield {first: number}
        return
    for size in range(1, number + 1):
        if number % size == 0:
            yield from ({first: size, **other} for other in factorizations(number // size, rest))


def with_remat(spec: RunSpec, remat: str) -> RunSpec:
    """The same run with another `model.remat`."""
    return dataclasses.replace(spec, model=dataclasses.replace(spec.model, remat=remat))


def with_sizes(config: MeshConfig, sizes: Mapping[str, Any]) -> MeshConfig:
    """The same settings of a mesh with other sizes of its axes."""
    return dataclasses.replace(config, **sizes)


def fits(one: Estimate, chip: Chip) -> bool:
    """Whether a device has the memory for it, by the estimate."""
    return one.held.total <= chip.memory


def _from_compiler(
    spec: RunSpec, config: MeshConfig, target: Target, best: Sequence[Estimate]
) -> list[Compiled]:
    """The compiler's word for the best estimates; nothing without one."""
    if not best or not ACCELERATORS[target.chip.platform].compiles:
        return []
    devices, found = compiled.topology_devices(target, spec), []
    for one in best:
        run = with_remat(spec, one.remat)
        layout = layout_over(with_sizes(config, one.sizes), run, devices)
        cost = compiled.compile_step(run, layout)
        network = compiled.network_seconds(cost, one.sizes, target)
        seconds = max(one.seconds.compute, one.seconds.memory) + network
        found.append(Compiled(one, cost.needed, seconds))
    return found


def choose(found: Sequence[Estimate], words: Sequence[Compiled], chip: Chip) -> Estimate | None:
    """The fastest that fits: by the compiler where it was asked, else by the estimates."""
    if words:
        fitting = [one for one in words if one.needed <= chip.memory]
        return min(fitting, key=lambda one: one.seconds).guess if fitting else None
    return next((one for one in found if fits(one, chip)), None)


def why_not(one: Estimate, chosen: Estimate | None, chip: Chip) -> str:
    """The reason against a candidate, in a few words."""
    if not fits(one, chip):
        held = dataclasses.asdict(one.held)
        most = max(held, key=lambda name: held[name])
        return f"does not fit: {held[most] / compiled.GIB:.1f} GiB of {KINDS[most]}"
    if one is chosen or chosen is None:
        return ""
    mine, other = one.seconds, chosen.seconds
    local = max(mine.compute, mine.memory) - max(other.compute, other.memory)
    network = sum(mine.network.values()) - sum(other.network.values())
    if max(local, network) <= 0:
        return "no faster"
    if network > local:
        most = max(mine.network, key=lambda axis: mine.network[axis])
        return f"+{network:.3g} s of network, most over {most}"
    return f"+{local:.3g} s of {'arithmetic' if mine.compute >= mine.memory else 'memory traffic'}"


KINDS = {
    "params": "parameters",
    "opt_state": "optimizer state",
    "gradients": "gradients",
    "gathered": "gathered parameters",
    "activations": "activations",
    "head": "logits",
}


def _print(
    target: Target,
    found: Sequence[Estimate],
    words: Sequence[Compiled],
    chosen: Estimate | None,
) -> None:
    console, chip = Console(width=120), target.chip
    fitting = sum(fits(one, chip) for one in found)
    print(
        f"{target.name}: {target.devices} devices with {chip.memory / compiled.GIB:g} GiB; "
        f"{len(found)} candidates, {fitting} fit by the estimate"
    )
    table = Table(
        "mesh",
        "remat",
        "GiB",
        "arithmetic s",
        "memory s",
        "network s",
        "step s",
        "MFU",
        "why not",
        title="estimates",
        header_style="bold",
    )
    for one in _rows(found, chosen, chip):
        seconds = one.seconds
        numbers = (seconds.compute, seconds.memory, sum(seconds.network.values()), seconds.total)
        table.add_row(
            _words(one.sizes),
            one.remat,
            f"{one.held.total / compiled.GIB:.2f}",
            *(f"{number:.3g}" for number in numbers),
            f"{seconds.utilization:.0%}",
            "chosen" if one is chosen else why_not(one, chosen, chip),
        )
    console.print(table)
    _print_compiled(console, words, chip)
    print(_verdict(target, found, words, chosen))


def _rows(found: Sequence[Estimate], chosen: Estimate | None, chip: Chip) -> list[Estimate]:
    """The fastest that fit and that do not, half each, and what was chosen."""
    good = [one for one in found if fits(one, chip)][: SHOWN // 2]
    bad = [one for one in found if not fits(one, chip)][: SHOWN - len(good)]
    shown = [*good, *bad, *([chosen] if chosen and chosen not in good else [])]
    return sorted(shown, key=_order)


def _print_compiled(console: Console, words: Sequence[Compiled], chip: Chip) -> None:
    if not words:
        return
    table = Table(
        "mesh",
        "remat",
        "GiB estimated",
        "compiled",
        "step s estimated",
        "compiled",
        title="by the compiler",
        header_style="bold",
    )
    for one in words:
        over = "" if one.needed <= chip.memory else " (does not fit)"
        table.add_row(
            _words(one.guess.sizes),
            one.guess.remat,
            f"{one.guess.held.total / compiled.GIB:.2f}",
            f"{one.needed / compiled.GIB:.2f}{over}",
            f"{one.guess.seconds.total:.3g}",
            f"{one.seconds:.3g}",
        )
    console.print(table)


def _verdict(
    target: Target,
    found: Sequence[Estimate],
    words: Sequence[Compiled],
    chosen: Estimate | None,
) -> str:
    if chosen is None and words:
        return (
            f"by the compiler none of the {len(words)} that it was asked about fits; set "
            f"plan_mesh.compiled={4 * len(words)} to ask about more, raise train.micro_batches, or "
            "take a larger slice"
        )
    if chosen is None:
        least = min(found, key=lambda one: one.held.total)
        return (
            f"nothing fits {target.name}: the least is {least.held.total / compiled.GIB:.1f} GiB "
            f"of {target.chip.memory / compiled.GIB:g}; raise train.micro_batches, set "
            "train.loss_chunk, or take a larger slice"
        )
    flags = " ".join(f"--config.mesh.{axis}={size}" for axis, size in chosen.sizes.items())
    said = "the compiler agrees that it fits" if words else NO_WORD
    faster = [one for one in found if _order(one) < _order(chosen)]
    lines = [f"chosen: {flags} --config.model.remat={chosen.remat}", f"{said}."]
    if faster:
        lines.append(
            f"{len(faster)} candidates are faster by the estimate and do not fit; the first, "
            f"{_words(faster[0].sizes)} with remat {faster[0].remat}, needs "
            f"{faster[0].held.total / compiled.GIB:.1f} GiB."
        )
    return "\n".join(lines)


NO_WORD = (
    "these are estimates, no compiler was asked (pip install 'gptjax[tpu]' or 'gptjax[cuda]', and "
    "plan_mesh.compiled of 1 or more)"
)


def _words(sizes: Mapping[str, int]) -> str:
    return " × ".join(f"{axis} {size}" for axis, size in sizes.items() if size > 1) or "one device"


def _as_json(
    target: Target,
    found: Sequence[Estimate],
    words: Sequence[Compiled],
    chosen: Estimate | None,
) -> dict[str, Any]:
    def row(one: Estimate) -> dict[str, Any]:
        return {
            **dataclasses.asdict(one),
            "needed": one.held.total,
            "step_s": one.seconds.total,
            "mfu": one.seconds.utilization,
            "fits": fits(one, target.chip),
            "why_not": why_not(one, chosen, target.chip),
        }

    return {
        "target": target.name,
        "memory_bytes": target.chip.memory,
        "chosen": None if chosen is None else {**chosen.sizes, "remat": chosen.remat},
        "compiled": [
            {**row(one.guess), "needed": one.needed, "step_s": one.seconds} for one in words
        ],
        "candidates": [row(one) for one in found],
    }


JOB = Job(main, Settings, check, one_run=True)
