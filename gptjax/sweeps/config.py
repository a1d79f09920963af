"""The `sweep` section of a config."""

import dataclasses

from gptjax.fields import setting
from gptjax.sweeps.profiles import PLANS
from gptjax.sweeps.rules import RULES
from gptjax.sweeps.shapes import DEPTH_RULES

ENGINES = {"local": "gptjax.engines.local", "ray": "gptjax.engines.ray"}
"""The module of each engine, imported when a sweep asks for it."""


@dataclasses.dataclass(frozen=True)
class SweepConfig:
    """Which cells a sweep trains. Everything else of a cell comes from the other sections."""

    plan: str = setting("isoflop", "isoflop: budgets × sizes; grid: sizes × tokens", choices=PLANS)
    budgets: tuple[float, ...] = setting((1e12,), "training FLOPs of each profile", above=0.0)
    sizes: int = setting(7, "sizes in each profile, around the expected minimum", minimum=1)
    widths: tuple[int, ...] = setting(
        (), "widths used at every budget; () = the ladder around the expected minimum", minimum=2
    )
    tokens: tuple[float, ...] = setting((), "token budgets of plan=grid", above=0.0)
    seeds: tuple[int, ...] = setting(
        (0,), "one run of every cell for each seed", minimum=0, maximum=2**31 - 1
    )
    spacing: float = setting(
        1.5, "ratio of neighbouring sizes on the ladder, in parameters", above=1.05
    )
    optimum_params: float = setting(
        0.0,
        "expected optimal size at sweep.optimum_flops (non-embedding + head); 0 = sweep.rule's",
        minimum=0.0,
    )
    optimum_flops: float = setting(1e12, "where sweep.optimum_params holds", above=0.0)
    optimum_exponent: float = setting(0.5, "expected a of N_opt ∝ C^a", above=0.0, below=1.0)
    depth_rule: str = setting(
        "fixed", "model.depth at every width, or width / sweep.aspect", choices=DEPTH_RULES
    )
    aspect: float = setting(64.0, "width over depth when sweep.depth_rule=aspect", above=0.0)
    width_step: int = setting(8, "widths are multiples of this", minimum=2)
    head_width: int = setting(32, "wanted width of a head; the nearest that divides", minimum=2)
    rule: str = setting(
        "demo", "batch size and learning rate as functions of size and tokens", choices=RULES
    )
    learning_rate_scale: float = setting(1.0, "multiplies the rule's learning rate", above=0.0)
    learning_rate_exponent: float = setting(
        0.0, "it also changes with size as (N / sweep.learning_rate_params) to this power"
    )
    learning_rate_params: float = setting(
        1e6, "size (non-embedding + head) at which sweep.learning_rate_scale holds", above=0.0
    )
    batch_scale: float = setting(1.0, "multiplies the rule's batch size", above=0.0)
    part_tokens: int = setting(
        0,
        "most tokens of a micro-batch, computed one after another, so that batches share programs "
        "and, on CPU, fit its cache (512); 0 = train.micro_batches of them",
        minimum=0,
    )
    tune: bool = setting(
        False,
        "before the sweep, find the best learning rate of its smallest sizes, and correct the rule "
        "by a power law through them; job=tune does that alone",
    )
    tune_sizes: int = setting(4, "how many of the smallest sizes are tuned", minimum=1)
    tune_factors: tuple[float, ...] = setting(
        (0.25, 0.5, 1.0, 2.0, 4.0),
        "factors of the rule's learning rate, evenly spaced in the logarithm; widened where the "
        "best lies at an edge",
        above=0.0,
    )
    tune_batches: tuple[float, ...] = setting(
        (1.0,), "factors of the rule's batch size; the best is kept", above=0.0
    )
    tune_b2: tuple[float, ...] = setting(
        (), "values of optim.b2, of which the best is kept; () = optim.b2", minimum=0.0, below=1.0
    )
    share_trunks: bool = setting(
        True,
        "cells that differ only in length train their common beginning once; it takes "
        "optim.warmup_steps and a schedule of wsd, constant or inverse_sqrt",
    )
    stack: int = setting(
        0,
        "cells that differ only in seed, learning rate, weight decay, initial scale or length are "
        "trained side by side in one program, and so are the branches of a trunk, at most so many; "
        "0 = 1 on CPU, where it does not pay, 16 elsewhere",
        minimum=0,
    )
    stack_gb: float = setting(
        8.0, "GiB that the cells side by side may hold, by an estimate from above", above=0.0
    )
    device_gb: float = setting(
        0.0,
        "GiB of a device that a run may fill, by the same estimate; a larger one is sharded over "
        "2, 4, 8 of a process's devices (fsdp); 0 = four fifths of the memory that the device "
        "reports, no limit where it reports none, as a CPU",
        minimum=0.0,
    )
    quantize_bits: tuple[int, ...] = setting(
        (),
        "also measure the held-out loss of every cell with its weights in so many bits, by "
        "config.quantize, for job=precision_law; cells are then not stacked",
        choices=(2, 3, 4, 5, 6, 7, 8),
    )
    tasks: tuple[str, ...] = setting(
        (),
        "also score every cell at its end on these tasks of job=evaluate, by config.evaluate; the "
        "scores stand in its record and in runs.csv; cells are then not stacked",
    )
    engine: str = setting(
        "local",
        "engine that trains the bundles: processes of this machine, or tasks of a Ray cluster "
        "(extra gptjax[ray])",
        choices=ENGINES,
    )
    address: str = setting(
        "auto",
        "cluster of sweep.engine=ray: HOST:PORT; auto = RAY_ADDRESS or the one that runs on this "
        "machine; local = one started for this sweep",
    )
    task_cpus: float = setting(1.0, "CPUs that Ray reserves for a bundle", minimum=0.0)
    task_devices: float = setting(
        0.0,
        "accelerators that Ray reserves for a bundle: GPUs, or TPU chips if config.device=tpu",
        minimum=0.0,
    )
    workers: int = setting(
        0, "processes on this machine; 0 = one a CPU core, or one an accelerator", minimum=0
    )
    attempts: int = setting(2, "tries of a cell before it is recorded as failed", minimum=1)
    claim_seconds: float = setting(
        60.0, "a claim whose worker gives no sign of life for so long is taken over", above=1.0
    )
    retry_failed: bool = setting(
        False, "train the cells again that failed before; their records move to failed/"
    )
    mixed: bool = setting(
        False,
        "fit cells together though they were trained on other platforms or by other versions of "
        "jax, whose numbers differ; the differences are printed either way",
    )
    price_per_device_hour: float = setting(
        0.0,
        "money for an hour of one device; the plan prints the total when it is not 0",
        minimum=0.0,
    )
