"""A comparison: the same run with other settings of `optim`, each at several learning rates."""

import dataclasses
import typing
from typing import Any

from gptjax import optim
from gptjax.errors import UserError, nearest
from gptjax.fields import from_text, make, setting
from gptjax.optim import OptimConfig
from gptjax.sweeps.plan import Cell, check_seeds
from gptjax.train import RunSpec

SHAPE_KEYS = ("width_transfer", "base_width", "base_head_dim")
"""Settings that change the model too."""


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """Runs of job=compare: variants × learning rates × seeds; and sweeps of job=compare_sweeps."""

    variants: tuple[str, ...] = setting(
        (), "optimizers to compare, each as LABEL: KEY=VALUE KEY=VALUE with settings of optim"
    )
    sweeps: tuple[str, ...] = setting(
        (),
        "job=compare_sweeps: sweeps whose laws are compared, the first is the reference, each as "
        "LABEL: SECTION.KEY=VALUE with settings of model, optim, train and sweep, or data.weights",
    )
    learning_rates: tuple[float, ...] = setting(
        (1 / 3, 1.0, 3.0),
        "a variant's learning rate is tried times each of these; the best is shown",
        above=0.0,
    )
    seeds: tuple[int, ...] = setting(
        (0,), "a run of every variant and rate for each seed", minimum=0, maximum=2**31 - 1
    )


@dataclasses.dataclass(frozen=True)
class Member:
    """One run of a comparison, under the label of its variant."""

    label: str
    cell: Cell

    @property
    def learning_rate(self) -> float:
        """Peak learning rate."""
        return self.cell.run.optim.learning_rate


def make_comparison(config: CompareConfig, base: RunSpec, corpus: str) -> list[Member]:
    """The runs of a comparison, variant by variant.

    Args:
      base: the run whose optimizer settings each variant changes.
      corpus: fingerprint of the tokens.

    Raises:
      UserError: for a variant that is not LABEL: KEY=VALUE, or that another has the label of.
    """
    if not config.variants:
        raise UserError(
            "compare.variants=() compares nothing; give, for example, "
            "--config.compare.variants='adamw: name=adamw,lion: name=lion learning_rate=3e-4'"
        )
    check_seeds("compare.seeds", config.seeds)
    members: list[Member] = []
    for text in config.variants:
        label, changed = _variant(base.optim, text)
        if label in {member.label for member in members}:
            raise UserError(f"compare.variants has the label {label!r} twice; name each apart")
        for factor in config.learning_rates:
            rate = float(f"{changed.learning_rate * factor:.3g}")
            for seed in config.seeds:
                optimizer = dataclasses.replace(changed, learning_rate=rate)
                run = dataclasses.replace(base, optim=optimizer, seed=seed)
                members.append(Member(label, Cell(run=run, corpus=corpus, budget=0.0)))
    return members


def _variant(base: OptimConfig, text: str) -> tuple[str, OptimConfig]:
    """The label, and `base` with the changes that the text names."""
    label, colon, changes = text.partition(":")
    if not colon or not label.strip():
        raise UserError(f"compare.variants has {text!r}; write it as LABEL: KEY=VALUE KEY=VALUE")
    hints = typing.get_type_hints(OptimConfig)
    values: dict[str, Any] = dataclasses.asdict(base)
    for change in changes.split():
        key, equals, value = change.partition("=")
        if key in SHAPE_KEYS:
            raise UserError(f"compare.variants has optim.{key}; set it for all variants instead")
        if key not in hints:
            raise UserError(f"compare.variants has optim.{key}; {nearest(key, hints)}")
        if not equals:
            raise UserError(f"compare.variants has {change!r} without a value; write {key}=VALUE")
        values[key] = from_text(f"optim.{key}", hints[key], value)
    changed = make(OptimConfig, values, "optim")
    optim.validate(changed)
    return label.strip(), changed
