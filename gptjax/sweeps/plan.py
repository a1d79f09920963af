"""Plan of a sweep: its cells, from config sections, and the reasons to refuse some plans."""

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from gptjax import models
from gptjax.cost.flops import training_flops_per_token
from gptjax.errors import UserError
from gptjax.identity import digest
from gptjax.models import ModelConfig
from gptjax.ops.backend import micro_batches
from gptjax.optim import OptimConfig
from gptjax.sweeps import shapes
from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.profiles import PLANS
from gptjax.sweeps.rules import RULES, Scale
from gptjax.train import RunSpec, TrainConfig, batch_warmup, transfer_width

MOST_SEQUENCES = 2**40
"""Of a batch: what no machine holds is a mistake in sweep.batch_scale."""


@dataclasses.dataclass(frozen=True)
class Cell:
    """Everything that determines one run's result, and the budget it was planned for.

    Attributes:
      run: model, optimizer, batch, steps, seed.
      corpus: fingerprint of the tokens.
      budget: nominal training FLOPs of its profile; 0 outside IsoFLOP plans. A label: it is not
        part of the identity.
    """

    run: RunSpec
    corpus: str
    budget: float

    @functools.cached_property
    def id(self) -> str:
        """Hash of the canonical form of run and corpus."""
        return identity_of(self.run.canonical, self.corpus)

    @property
    def flops(self) -> float:
        """Exact training FLOPs."""
        cost = self.run.optim.cost
        return self.run.tokens * training_flops_per_token(self.run.model, cost)


def identity_of(run: Mapping[str, Any], corpus: str) -> str:
    """The name of a cell: hash of the canonical form of its run and of its corpus."""
    return digest({"run": run, "corpus": corpus})


def make_plan(
    sweep: SweepConfig,
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    corpus: str,
    **of_data: Any,
) -> list[Cell]:
    """The cells of a sweep, smallest budget first.

    Args:
      of_data: fields of a run that say how it reads its corpus.

    Raises:
      UserError: for a plan from which no law can be identified, or whose cells cannot be trained.
    """
    check_seeds("sweep.seeds", sweep.seeds)
    cells = []
    for budget, shape, tokens in sized(sweep, model, optim.cost):
        for seed in sweep.seeds:
            run = make_run(sweep, shape, optim, train, tokens, seed, **of_data)
            cells.append(Cell(run=run, corpus=corpus, budget=budget))
    _check_identifiable(sweep, cells)
    return cells


def check_seeds(name: str, seeds: Sequence[int]) -> None:
    """Refuse no seed, and one that is given twice.

    Raises:
      UserError: naming it.
    """
    if not seeds:
        raise UserError(f"{name}=() makes no run; give at least one, for example {name}=0")
    twice = [seed for seed in seeds if seeds.count(seed) > 1]
    if twice:
        raise UserError(f"{name} has {twice[0]} twice, which is one run; give each seed once")


def sized(
    sweep: SweepConfig, model: ModelConfig, cost: float
) -> list[tuple[float, ModelConfig, float]]:
    """(budget, shape, tokens) of every cell, seeds aside; `cost` as `OptimConfig.cost`."""
    return PLANS[sweep.plan](sweep, model, cost)


def make_run(
    sweep: SweepConfig,
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    tokens: float,
    seed: int,
    **of_data: Any,
) -> RunSpec:
    """One run of `tokens` tokens with batch size and learning rate from the sweep's rule."""
    count = models.count_params(model)
    scale = Scale(
        params=count.non_embedding,
        params_with_head=count.non_embedding_with_head,
        tokens=tokens,
        flops=tokens * training_flops_per_token(model, optim.cost),
    )
    rule = RULES[sweep.rule]
    batch_size, rate = train.batch_size, optim.learning_rate
    if rule.batch_tokens is not None:
        sequences = rule.batch_tokens(scale) * sweep.batch_scale / model.seq_len
        if not sequences < MOST_SEQUENCES:
            raise UserError(
                f"sweep.batch_scale={sweep.batch_scale:g} makes a batch of {sequences:.3g} "
                "sequences; give a smaller one"
            )
        batch_size = _round_batch(sequences, train.micro_batches)
    if rule.learning_rate is not None:
        rate = _round_digits(rule.learning_rate(scale))
    per_step = batch_size * model.seq_len
    steps = max(1, round(tokens / per_step))
    warmup = optim.warmup_steps
    if rule.warmup_tokens is not None:
        warmup = max(1, round(rule.warmup_tokens(scale) / per_step))
    rate *= sweep.learning_rate_scale
    if sweep.learning_rate_exponent:
        relative = scale.params_with_head / sweep.learning_rate_params
        rate = _round_digits(rate * _power(relative, sweep.learning_rate_exponent))
    if not 0 < rate < math.inf:
        raise UserError(
            f"sweep.learning_rate_scale={sweep.learning_rate_scale:g} and "
            f"sweep.learning_rate_exponent={sweep.learning_rate_exponent:g} make a learning rate "
            f"of {rate:g}; give values nearer to 1 and 0"
        )
    optim = dataclasses.replace(optim, learning_rate=rate, warmup_steps=warmup)
    model, optim = transfer_width(model, optim)
    parts = train.micro_batches
    if sweep.part_tokens:
        parts = micro_batches(batch_size, model.seq_len, tokens=sweep.part_tokens)
    run = RunSpec.of(
        train,
        micro_batches=parts,
        model=model,
        optim=optim,
        batch_size=batch_size,
        steps=steps,
        seed=seed,
        **of_data,
    )
    batch_warmup.check(run)
    return run


def _check_identifiable(sweep: SweepConfig, cells: Sequence[Cell]) -> None:
    """Refuse plans that cannot tell size from data."""
    if not cells:
        raise UserError(
            f"sweep.budgets={sweep.budgets} plans no cell; give at least one budget, for example "
            "--config.sweep.budgets=1e12"
        )
    for cell in cells:
        if cell.run.steps < 10:
            raise UserError(
                f"a cell of width {cell.run.model.width} would have {cell.run.steps} steps of "
                f"{cell.run.batch_size * cell.run.model.seq_len} tokens; give larger budgets than "
                f"sweep.budgets={cell.budget:g}, smaller sizes, or a smaller sweep.batch_scale"
            )
    sizes = {shapes.size_of(cell.run.model) for cell in cells}
    if len(sizes) < 2:
        raise UserError(
            f"the plan has one size only ({next(iter(sizes))} parameters), so no law in N can be "
            f"identified; raise sweep.sizes={sweep.sizes} or give more sweep.widths"
        )
    ratios = [math.log(cell.run.tokens / shapes.size_of(cell.run.model)) for cell in cells]
    if max(ratios) - min(ratios) < math.log(1.1):
        raise UserError(
            f"every cell has about {math.exp(ratios[0]):.3g} tokens per parameter, so the effects "
            "of N and D cannot be told apart; give several sizes at one budget "
            "(sweep.plan=isoflop) or several sweep.tokens"
        )


def _round_batch(sequences: float, micro_batches: int) -> int:
    """The nearest power of two that the micro-batches divide, at least one each."""
    power = 2 ** max(0, round(math.log2(max(sequences, 1.0))))
    return max(micro_batches, power // micro_batches * micro_batches)


def _power(base: float, exponent: float) -> float:
    """base to the exponent, infinite where Python raises an error."""
    try:
        return float(base**exponent)
    except OverflowError:
        return math.inf


def _round_digits(value: float) -> float:
    """Three significant digits, so that a rule's value reads the same everywhere."""
    return float(f"{value:.3g}")
