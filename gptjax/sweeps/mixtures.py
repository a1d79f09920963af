"""The plan of a sweep over mixtures: weights drawn around a prior, and the cells that have them."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import shapes
from gptjax.sweeps.config import SweepConfig
from gptjax.sweeps.plan import Cell, check_seeds, make_run, sized
from gptjax.train import TrainConfig

DECIMALS = 4
"""Of a weight: proportions are exact then (`data.mixture`)."""
Weights = tuple[float, ...]


def drawn(prior: Sequence[float], count: int, concentration: float, seed: int) -> list[Weights]:
    """The prior, and `count` draws of a Dirichlet distribution whose mean it is.

    Args:
      concentration: of the distribution for each source; 1 with an equal prior is uniform over all
        mixtures, more keeps nearer to the prior.

    Raises:
      UserError: for a prior that leaves a source out, whose worth no draw could tell.
    """
    if min(prior) <= 0:
        raise UserError(
            f"data.weights={tuple(prior)} leaves a source out, and a law of mixtures needs each in "
            "some runs; give every source a weight above 0, or leave it out of data.sources"
        )
    rng = np.random.default_rng(seed)
    alphas = concentration * len(prior) * np.asarray(prior, float)
    return [rounded(row) for row in (prior, *rng.dirichlet(alphas, count))]


def rounded(weights: Sequence[float] | np.ndarray) -> Weights:
    """Weights of four decimals that sum to 1; the largest takes what rounding left."""
    units = np.round(np.asarray(weights, float) * 10**DECIMALS).astype(int)
    units[np.argmax(units)] += 10**DECIMALS - units.sum()
    return tuple(float(f"{unit / 10**DECIMALS:.{DECIMALS}f}") for unit in units)


def largest_size(sweep: SweepConfig, model: ModelConfig, cost: float) -> int:
    """The size (non-embedding + head) at which a law of mixtures is checked.

    Raises:
      UserError: for a plan of fewer than two sizes.
    """
    sizes = {shapes.size_of(shape) for _, shape, _ in sized(sweep, model, cost)}
    if len(sizes) < 2:
        raise UserError(
            f"sweep.widths={sweep.widths} plans one size, and the largest of two or more is held "
            "out to check the law; give more widths"
        )
    return max(sizes)


def cells_of(
    sweep: SweepConfig,
    model: ModelConfig,
    optim: OptimConfig,
    train: TrainConfig,
    corpus: str,
    mixtures: Sequence[Weights],
    *,
    largest: bool,
    **of_data: Any,
) -> list[Cell]:
    """A cell for every mixture, size and seed, at the largest size of the plan or at the others."""
    check_seeds("sweep.seeds", sweep.seeds)
    top = largest_size(sweep, model, optim.cost)
    found = []
    for budget, shape, tokens in sized(sweep, model, optim.cost):
        if (shapes.size_of(shape) == top) is not largest:
            continue
        for weights in dict.fromkeys(mixtures):
            data = {**of_data, "source_weights": weights}
            for seed in sweep.seeds:
                run = make_run(sweep, shape, optim, train, tokens, seed, **data)
                found.append(Cell(run=run, corpus=corpus, budget=budget))
    return found
