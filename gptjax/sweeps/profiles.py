"""Plans of a sweep: which sizes are trained on how many tokens.

A plan is a function of the `sweep` section, the model and the gradients a step; a further one is a
function here and an entry in PLANS.
"""

import math
from typing import TYPE_CHECKING

from gptjax.cost.flops import training_flops_per_token
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.sweeps import shapes
from gptjax.sweeps.rules import optimum_of_demo

if TYPE_CHECKING:
    from gptjax.sweeps.config import SweepConfig

LARGEST = 1e18
"""Parameters beyond which a profile is a mistake of its budget."""


def expected_optimum(sweep: "SweepConfig", flops: float) -> float:
    """Size (non-embedding + head) around which a profile is laid at `flops`."""
    if sweep.optimum_params > 0.0:
        return sweep.optimum_params * (flops / sweep.optimum_flops) ** sweep.optimum_exponent
    return optimum_of_demo(flops)


def isoflop(
    sweep: "SweepConfig", model: ModelConfig, cost: float
) -> list[tuple[float, ModelConfig, float]]:
    """Profiles: several sizes at each budget of training FLOPs."""
    pairs = []
    for budget in sorted(set(sweep.budgets)):
        for shape in _profile(sweep, model, budget):
            tokens = budget / training_flops_per_token(shape, cost)
            pairs.append((budget, shape, tokens))
    return pairs


def _profile(sweep: "SweepConfig", model: ModelConfig, budget: float) -> list[ModelConfig]:
    """The shapes of one IsoFLOP profile: those nearest to the expected minimum, in log size."""
    if sweep.widths:
        return [shapes.with_width(model, sweep, width) for width in sorted(set(sweep.widths))]
    centre = expected_optimum(sweep, budget)
    if not centre <= LARGEST:
        raise UserError(
            f"sweep.budgets={budget:g} lays its profile around {centre:.3g} parameters, and no "
            f"model has more than {LARGEST:g}; give smaller budgets, or say where the minimum is "
            "expected by sweep.optimum_params and sweep.optimum_flops"
        )
    rungs = shapes.ladder(model, sweep, _largest(sweep, centre))

    def distance(shape: ModelConfig) -> float:
        return abs(math.log(shapes.size_of(shape) / centre))

    return sorted(sorted(rungs, key=distance)[: sweep.sizes], key=shapes.size_of)


def _largest(sweep: "SweepConfig", centre: float) -> float:
    """Where the ladder of sizes may end: a few rungs above the last one of a profile."""
    above = math.log(centre) + (sweep.sizes + 1) * math.log(sweep.spacing)
    if above > math.log(LARGEST):
        return LARGEST
    return centre * sweep.spacing ** (sweep.sizes + 1)


def grid(
    sweep: "SweepConfig", model: ModelConfig, cost: float
) -> list[tuple[float, ModelConfig, float]]:
    """Every size at every number of tokens."""
    if not sweep.widths or not sweep.tokens:
        raise UserError(
            f"sweep.plan=grid needs sweep.widths={sweep.widths} and sweep.tokens={sweep.tokens}; "
            "give both, for example --config.sweep.widths='(16,32,64)' "
            "--config.sweep.tokens='(1e6,4e6)'"
        )
    sized = [shapes.with_width(model, sweep, width) for width in sorted(set(sweep.widths))]
    return [(0.0, shape, tokens) for tokens in sorted(set(sweep.tokens)) for shape in sized]


PLANS = {"isoflop": isoflop, "grid": grid}
"""The plan of each name of `sweep.plan`."""
