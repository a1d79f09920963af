"""Tuning against a truth that is known: parabolas in log η with a power law of their minima."""

import dataclasses
import math

import pytest

from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import SweepConfig, make_plan, make_trials, tuning
from gptjax.train import TrainConfig

MODEL = ModelConfig(depth=3, width=32, num_heads=2, seq_len=64, vocab_size=257, use_bias=False)


def trials_of(**changes):
    sweep = SweepConfig(**{"budgets": (1e11, 1e12), "tune_sizes": 4, **changes})
    return make_trials(sweep, MODEL, OptimConfig(), TrainConfig(), "corpus")


def losses_of(trials, at, power, noise=0.0, batch_cost=0.0, b2_cost=0.0):
    """Losses whose best factor is at·(N/20,000)^power."""
    found = {}
    for i, trial in enumerate(trials):
        best = at * (trial.params / 2e4) ** power
        loss = 2.0 + 0.1 * math.log(trial.factor / best) ** 2 + noise * math.cos(7.0 * i)
        loss += batch_cost * abs(math.log(trial.batch / 2.0)) + b2_cost * abs(trial.b2 - 0.99)
        found[trial.cell.id] = loss
    return found


def test_the_smallest_sizes_at_every_factor():
    trials = trials_of()
    cells = make_plan(
        SweepConfig(budgets=(1e11, 1e12)), MODEL, OptimConfig(), TrainConfig(), "corpus"
    )
    planned = {(cell.run.model.width, cell.run.steps * cell.run.batch_size) for cell in cells}
    widths = sorted({trial.cell.run.model.width for trial in trials})
    assert widths == sorted({cell.run.model.width for cell in cells})[:4]
    assert len(trials) == 4 * 5 and len({trial.cell.id for trial in trials}) == 20
    for trial in trials:
        run = trial.cell.run
        assert (run.model.width, run.steps * run.batch_size) in planned
    rates = [t.cell.run.optim.learning_rate for t in trials if t.params == trials[0].params]
    assert rates == pytest.approx([rates[2] * f for f in (0.25, 0.5, 1, 2, 4)], rel=0.01)


def test_a_known_power_law_is_found_and_used():
    trials = trials_of()
    losses = losses_of(trials, at=1.4, power=-0.3, noise=1e-4)
    assert tuning.wider(trials, losses) == ()
    tuned = tuning.find(trials, losses)
    assert tuned.exponent[0] == pytest.approx(-0.3, abs=0.03) and tuned.uses_exponent
    assert tuned.factor[0] == pytest.approx(1.4 * (tuned.params / 2e4) ** -0.3, rel=0.02)
    assert tuned.factor[1] < tuned.factor[0] < tuned.factor[2]
    sweep, optim = tuned.applied(SweepConfig(budgets=(1e11, 1e12)), OptimConfig())
    plain = make_plan(SweepConfig(budgets=(1e11, 1e12)), MODEL, OptimConfig(), TrainConfig(), "c")
    for before, cell in zip(plain, make_plan(sweep, MODEL, optim, TrainConfig(), "c"), strict=True):
        size = tuning.shapes.size_of(cell.run.model)
        ratio = cell.run.optim.learning_rate / before.run.optim.learning_rate
        assert ratio == pytest.approx(1.4 * (size / 2e4) ** -0.3, rel=0.05)


def test_an_exponent_that_may_be_zero_is_not_used():
    trials = trials_of()
    tuned = tuning.find(trials, losses_of(trials, at=0.8, power=0.0, noise=3e-3))
    assert not tuned.uses_exponent and "not used" in tuned.sentence
    sweep, _ = tuned.applied(SweepConfig(), OptimConfig())
    assert sweep.learning_rate_exponent == 0.0
    assert sweep.learning_rate_scale == pytest.approx(tuned.factor[0], rel=1e-3)


@pytest.mark.parametrize(("at", "wanted"), [(0.05, (0.125,)), (30.0, (8.0,)), (1.0, ())])
def test_a_grid_whose_best_is_at_its_edge_is_widened(at, wanted):
    trials = trials_of()
    assert tuning.wider(trials, losses_of(trials, at, 0.0)) == pytest.approx(wanted)


def test_nothing_is_tried_beyond_a_failed_run():
    trials = trials_of()
    losses = {t.cell.id: None if t.factor == 4.0 else 3.0 - t.factor / 10 for t in trials}
    assert tuning.wider(trials, losses) == ()
    with pytest.raises(UserError, match=r"widen sweep.tune_factors=\(0.25, 0.5, 1.0, 2.0, 4.0\)"):
        tuning.find(trials, losses)


def test_batch_and_b2_are_chosen_at_their_own_best_rates():
    trials = trials_of(tune_batches=(0.5, 1.0, 2.0), tune_b2=(0.9, 0.99), tune_sizes=3)
    assert len(trials) == 3 * 5 * 6
    tuned = tuning.find(trials, losses_of(trials, 1.0, -0.1, batch_cost=0.1, b2_cost=1.0))
    assert (tuned.batch, tuned.b2) == (2.0, 0.99)
    sweep, optim = tuned.applied(SweepConfig(batch_scale=2.0), OptimConfig())
    assert sweep.batch_scale == 4.0 and optim.b2 == 0.99 and not sweep.tune


def test_more_sizes_than_there_are_is_refused():
    with pytest.raises(UserError, match=r"sweep\.tune_sizes=40"):
        trials_of(tune_sizes=40)


@pytest.mark.parametrize("factors", [(1.0, 2.0, 4.0), (1.0, 3.0, 9.0, 27.0), (1.0, 2.0, 3.0, 4.0)])
def test_a_grid_too_coarse_for_a_parabola_is_refused(factors):
    with pytest.raises(UserError, match="by one ratio"):
        trials_of(tune_factors=factors)


def test_two_sizes_give_a_factor_without_an_exponent():
    trials = trials_of(tune_sizes=2)
    tuned = tuning.find(trials, losses_of(trials, 1.5, 0.0))
    assert tuned.factor[0] == pytest.approx(1.5, rel=1e-3) and math.isnan(tuned.exponent[0])
    assert "too few sizes" in tuned.sentence and not tuned.uses_exponent
    assert dataclasses.asdict(tuned)["best"][0]["why"] == ""


def test_one_size_gives_a_factor_without_an_interval():
    trials = trials_of(tune_sizes=1)
    tuned = tuning.find(trials, losses_of(trials, 1.5, 0.0))
    assert tuned.factor[0] == pytest.approx(1.5, rel=1e-3) and math.isnan(tuned.factor[1])
    assert "nan" not in tuned.sentence
