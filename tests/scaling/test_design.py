"""Suggested next runs: does buying by the design beat the default grid at equal compute?"""

import numpy as np
import pytest
from known_runs import TRUTH, chinchilla_loss, isoflop_grid, runs_table
from many_tables import fit_many

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.fit import coordinates, engine, optimum
from gptjax.scaling.fit.engine import Problem
from gptjax.scaling.laws import design

COST = optimum.Cost()
TARGET = 1e21
NOISE = 0.004


def spread(params, tokens, repetitions=200):
    """Standard deviations of ln L_opt and ln N_opt at the target over noisy repetitions."""
    rng = np.random.default_rng(0)
    clean = np.log(chinchilla_loss(params, tokens))
    target = clean + NOISE * rng.standard_normal((repetitions, len(params)))
    columns = {"params": params, "tokens": tokens}
    problem = Problem(
        scaling.form_named("chinchilla"),
        columns,
        np.exp(clean),
        np.ones(len(params)),
        "squares_log",
    )
    start = coordinates.theta_of(problem.form, TRUTH, problem.centres)
    solution = engine.solve(problem, np.repeat(start[None], repetitions, 0), target=target)
    values = coordinates.values_of(problem.form, solution.theta, problem.centres)
    best = optimum.two_power_params(values, TARGET, COST)
    tokens_there = COST.tokens(TARGET, best)
    loss = engine.predict(problem.form, values, {"params": best, "tokens": tokens_there})
    # A robust spread: a few repetitions of a poor design run away.
    sizes = [np.subtract(*np.quantile(np.log(x), [0.84, 0.16])) / 2 for x in (loss, best)]
    return dict(zip(design.QUANTITIES, sizes, strict=True))


@pytest.mark.parametrize("quantity", design.QUANTITIES)
def test_the_design_is_narrower_than_the_isoflop_grid_at_equal_compute(quantity):
    budget, params, tokens = isoflop_grid()
    grid = spread(params, tokens)[quantity]
    plan = design.first_plan(
        scaling.form_named("chinchilla"),
        TRUTH,
        COST,
        TARGET,
        budget.sum(),
        noise=NOISE,
        quantity=quantity,
        cheapest=budget.min() / 4,
        dearest=budget.max(),
        most=len(params),
    )
    assert plan.flops.sum() <= budget.sum() * (1 + 1e-9)
    assert len(plan.params) <= len(params)
    ours = spread(plan.params, plan.tokens)[quantity]
    print(f"{quantity}: grid {grid:.4f}, design {ours:.4f}, {ours / grid:.0%}")
    assert ours < 0.85 * grid


REPETITIONS = 200
DEFAULT_GRID = {"budgets": 7, "sizes": 6}  # as experiments/chinchilla_sweep.py lays it out


@pytest.mark.slow
@pytest.mark.parametrize("quantity", design.QUANTITIES)
def test_printed_intervals_are_narrower_than_the_default_grids_at_equal_compute(quantity):
    """Both designs simulated and fitted as users fit: the widths that they would be shown.

    pytest -m slow tests/scaling/test_design.py -s
    """
    budget, params, tokens = isoflop_grid(**DEFAULT_GRID)
    plan = design.first_plan(
        scaling.form_named("chinchilla"),
        TRUTH,
        COST,
        TARGET,
        budget.sum(),
        noise=NOISE,
        quantity=quantity,
        cheapest=budget.min() / 4,
        dearest=budget.max(),
        most=len(params),
    )
    assert plan.flops.sum() <= budget.sum() * (1 + 1e-9) and len(plan.params) <= len(params)
    best = optimum.two_power_params(TRUTH, TARGET, COST)
    exact = {"loss": chinchilla_loss(best, COST.tokens(TARGET, best)), "log_params": best}
    widths, covered = {}, {}
    for name, cells in {"grid": (params, tokens), "plan": (plan.params, plan.tokens)}.items():
        noise = np.random.default_rng(3).standard_normal((REPETITIONS, len(cells[0])))
        losses = chinchilla_loss(*cells) * np.exp(NOISE * noise)
        table = {
            "cell": [f"run {i}" for i in range(len(cells[0]))],
            "params": cells[0],
            "tokens": cells[1],
        }
        laws = fit_many(table, losses, starts=8, resamples=300)
        tops = [law.optimum(TARGET) for law in laws]
        found = [top.loss if quantity == "loss" else top.params for top in tops]
        widths[name] = np.array([np.log(one.high / one.low) for one in found])
        covered[name] = np.mean([one.low <= exact[quantity] <= one.high for one in found])
    medians = {name: float(np.median(width)) for name, width in widths.items()}
    ratio, narrower = medians["plan"] / medians["grid"], np.mean(widths["plan"] < widths["grid"])
    print(
        f"\n{quantity}: {len(plan.params)} runs against {len(params)}; median width of ln "
        f"{medians}, ratio {ratio:.2f}; narrower in {narrower:.0%}; coverage {covered}"
    )
    assert ratio < 0.85
    assert min(covered.values()) > 0.9


def test_the_promise_after_the_runs_is_kept():
    law = scaling.fit(runs_table(noise=NOISE), starts=8, resamples=0, loss_kind="squares_log")
    plan = design.run_next(law, TARGET, float(law.runs.flops.sum()))
    assert plan.sd_after < 0.8 * plan.sd_before
    params = np.concatenate([law.runs.params, plan.params])
    tokens = np.concatenate([law.runs.tokens, plan.tokens])
    measured = spread(params, tokens)["loss"]
    noise = np.sqrt(np.mean(law.noise**2))
    assert measured == pytest.approx(plan.sd_after * NOISE / noise, rel=0.35)


def test_more_money_never_hurts_and_too_little_is_refused():
    law = scaling.fit(runs_table(noise=NOISE), starts=8, resamples=0)
    spent = float(law.runs.flops.sum())
    after = [design.run_next(law, TARGET, spent * share).sd_after for share in (0.1, 0.5, 2.0)]
    assert after == sorted(after, reverse=True)
    with pytest.raises(UserError, match="pays for no run"):
        design.run_next(law, TARGET, 1.0, dearest=1e18)
    with pytest.raises(UserError, match="quantity"):
        design.run_next(law, TARGET, spent, quantity="los")


def test_the_plan_is_part_of_the_laws():
    config = scaling.FitConfig(
        starts=8, resamples=20, approaches=("parametric",), compare=("chinchilla",)
    )
    laws = scaling.fit_laws(runs_table(noise=NOISE), None, config)
    plan = laws["run_next"]
    assert (
        plan["after"]["high"] - plan["after"]["low"]
        < plan["before"]["high"] - plan["before"]["low"]
    )
    assert sum(cell["flops"] * cell["repeats"] for cell in plan["cells"]) == pytest.approx(
        plan["spent_flops"]
    )
