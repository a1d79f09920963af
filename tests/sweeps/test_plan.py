"""Plans: exact budgets, identity, refusals; rules against the papers' numbers."""

import dataclasses
import math

import pytest

from gptjax.cost import flops, memory
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import RULES, Scale, SweepConfig, make_bundles, make_plan, shapes, timing
from gptjax.sweeps.bundles import Bundle
from gptjax.sweeps.config import RULES as RULE_NAMES
from gptjax.train import TrainConfig, micro_batches

MODEL = ModelConfig(depth=3, width=32, num_heads=2, seq_len=64, vocab_size=257, use_bias=False)


def plan(model=MODEL, train=None, **settings):
    sweep = SweepConfig(**{"budgets": (1e11, 1e12), **settings})
    return make_plan(sweep, model, OptimConfig(), train or TrainConfig(), "corpus")


def test_cells_spend_their_budget_under_the_exact_count():
    cells = plan(sizes=6)
    assert len(cells) == 12
    for cell in cells:
        tokens_a_step = cell.run.batch_size * 64
        error = abs(cell.flops - cell.budget) / cell.budget
        assert error <= 0.5 * tokens_a_step / cell.run.tokens + 1e-12


def test_parts_of_so_many_tokens_make_programs_of_different_batches_one():
    rule = {"rule": "demo_trunk", "widths": (16, 32), "budgets": (1e10, 1e12)}
    whole, parts = (plan(**rule, part_tokens=tokens)[::2] for tokens in (0, 512))
    assert {cell.run.model.width for cell in parts} == {16}
    assert [cell.run.batch_size for cell in parts] == [8, 16]
    assert [cell.run.micro_batches for cell in parts] == [1, 2]
    assert [cell.run.micro_batches for cell in whole] == [1, 1]
    assert len({micro_batches.shared_program(cell.run) for cell in parts}) == 1
    assert len({micro_batches.shared_program(cell.run) for cell in whole}) == 2
    assert [cell.run.steps for cell in parts] == [cell.run.steps for cell in whole]


def test_exact_count_by_hand():
    """One block of width 2, one head: 3 · (projections + scores + MLP + head) a token."""
    model = dataclasses.replace(
        MODEL, depth=1, width=2, num_heads=1, seq_len=4, vocab_size=10, mlp="relu"
    )
    projections, scores, mlp, head = 4 * 2 * 2 * 2, 2 * 2 * 4 * 2, 2 * 2 * 2 * 8, 2 * 2 * 10
    assert flops.training_flops_per_token(model) == 3 * (projections + scores + mlp + head)
    gated = dataclasses.replace(model, mlp="swiglu")
    assert flops.training_flops_per_token(gated) == 3 * (projections + scores + 1.5 * mlp + head)


def test_sizes_surround_the_expected_minimum():
    for budget in (1e11, 1e12, 1e13):
        sizes = [shapes.size_of(c.run.model) for c in plan(budgets=(budget,), optimum_params=5e4)]
        centre = 5e4 * math.sqrt(budget / 1e12)
        assert sizes == sorted(sizes) and len(set(sizes)) == 7
        assert sizes[1] < centre < sizes[-2]


def test_a_budget_beyond_any_model_is_refused_at_once():
    with pytest.raises(UserError, match=r"sweep.budgets=1e\+308 lays its profile around"):
        plan(budgets=(1e308,))
    heads = [shapes.heads_of_width(width, 16) for width in (2, 12, 96, 100, 2 * 3 * 5 * 7 * 11)]
    assert heads == [1, 1, 6, 5, 165]
    assert shapes.heads_of_width(2**40, 64) == 2**34


def test_identity_is_the_run_and_the_corpus_and_not_the_budget_label():
    cells = plan()
    assert len({cell.id for cell in cells}) == len(cells)
    again = plan()
    assert [cell.id for cell in again] == [cell.id for cell in cells]
    assert dataclasses.replace(cells[0], budget=7.0).id == cells[0].id
    assert dataclasses.replace(cells[0], corpus="other").id != cells[0].id


def test_hyperparameters_do_not_depend_on_the_neighbours():
    alone = plan(budgets=(1e12,))
    among = [cell for cell in plan(budgets=(1e11, 1e12, 1e13)) if cell.budget == 1e12]
    assert [cell.id for cell in alone] == [cell.id for cell in among]


def test_grid_crosses_widths_and_tokens():
    cells = plan(plan="grid", widths=(16, 32), tokens=(1e6, 4e6), seeds=(0, 1))
    assert len(cells) == 8
    assert {cell.run.seed for cell in cells} == {0, 1}
    for cell in cells:
        assert min(abs(cell.run.tokens / t - 1) for t in (1e6, 4e6)) < 0.01


def test_plans_that_identify_nothing_are_refused():
    with pytest.raises(UserError, match="one size only"):
        plan(widths=(32,))
    one_size_tokens = {"plan": "grid", "widths": (16, 32)}
    cells = plan(**one_size_tokens, tokens=(1e6, 2e6))
    assert cells
    with pytest.raises(UserError, match=r"sweep\.widths=\(\)"):
        plan(plan="grid", tokens=(1e6,))
    with pytest.raises(UserError, match="steps of"):
        plan(budgets=(1e8,))


def test_one_ratio_of_tokens_to_parameters_is_refused():
    """Two sizes whose compute-matched tokens keep D/N: only the product can be seen."""
    from gptjax.sweeps.plan import _check_identifiable

    small, large = plan(plan="grid", widths=(16, 32), tokens=(1e6,))
    ratio = shapes.size_of(large.run.model) / shapes.size_of(small.run.model)
    steps = round(small.run.steps * small.run.batch_size / large.run.batch_size * ratio)
    large = dataclasses.replace(large, run=dataclasses.replace(large.run, steps=steps))
    with pytest.raises(UserError, match="tokens per parameter"):
        _check_identifiable(SweepConfig(), [small, large])


@pytest.mark.parametrize("rule", RULE_NAMES)
def test_every_rule_plans(rule):
    train = TrainConfig(batch_size=8)
    cells = plan(rule=rule, train=train, budgets=(1e13,), batch_scale=0.1)
    for cell in cells:
        assert 1e-5 < cell.run.optim.learning_rate < 0.5
        assert cell.run.batch_size >= 1
    if rule in ("fixed", "kaplan"):
        assert {cell.run.batch_size for cell in cells} == {8}
    if rule == "fixed":
        assert {cell.run.optim.learning_rate for cell in cells} == {OptimConfig().learning_rate}


def test_published_rules_give_the_papers_numbers():
    scale = Scale(params=1e9, params_with_head=1.1e9, tokens=1e11, flops=1e20)
    deepseek, step = RULES["deepseek"], RULES["step_law"]
    assert deepseek.learning_rate(scale) == pytest.approx(0.3118 * 10**-2.5)
    assert deepseek.batch_tokens(scale) == pytest.approx(0.2920 * 10**6.542)
    assert step.learning_rate(scale) == pytest.approx(1.79 * 10**-6.417 * 10**3.377)
    assert step.batch_tokens(scale) == pytest.approx(0.58 * 10**6.281)
    # Kaplan et al. 2020, equation D.1 at a billion parameters.
    assert RULES["kaplan"].learning_rate(scale) == pytest.approx(0.000348, rel=0.01)


def test_depth_follows_the_aspect_when_asked():
    sweep = SweepConfig(depth_rule="aspect", aspect=16.0)
    assert shapes.with_width(MODEL, sweep, 64).depth == 4
    assert shapes.with_width(MODEL, SweepConfig(), 64).depth == MODEL.depth


def test_no_rung_has_heads_of_an_odd_width():
    sweep = SweepConfig(width_step=4, head_width=16)
    rungs = shapes.ladder(dataclasses.replace(MODEL, width=16, num_heads=1), sweep, 1e7)
    assert 76 not in [rung.width for rung in rungs]  # 19 heads of 4
    for rung in rungs:
        assert rung.head_width <= 24
        assert rung.head_width >= 11 or rung.num_heads == 1


def test_the_default_rule_gives_a_size_two_trunks():
    sweep = SweepConfig(
        plan="grid", widths=(16, 32), tokens=(3e5, 6e5, 1e6, 2e6, 4e6), rule="demo_trunk"
    )
    optim, train = OptimConfig(schedule="wsd"), TrainConfig()
    bundles = make_bundles(sweep, train, make_plan(sweep, MODEL, optim, train, "corpus"))
    assert sorted(len(bundle.cells) for bundle in bundles) == [2, 2, 3, 3]


def test_grouped_heads_keep_their_grouping():
    model = dataclasses.replace(MODEL, width=64, num_heads=4, num_kv_heads=2, mlp_width=96)
    wide = shapes.with_width(model, SweepConfig(head_width=16), 128)
    assert (wide.num_heads, wide.num_kv_heads, wide.mlp_width) == (8, 4, 192)


def test_predicted_time_grows_with_work_and_falls_with_workers():
    cells = plan()
    small, large = cells[0], cells[-1]
    bundles = make_bundles(SweepConfig(), TrainConfig(), cells)
    seconds = timing.predicted_by_cell(bundles, 1e10)
    assert seconds[large.id] > seconds[small.id]
    one, two = (timing.predicted_total(bundles, 1e10, workers) for workers in (1, 2))
    assert one / 2 <= two < one
    trained = [
        sum(seconds[cell.id] for cell in bundle.cells) for bundle in timing.longest_first(bundles)
    ]
    assert trained == sorted(trained, reverse=True)
    lanes = timing.schedule(bundles, 1e10, 2)
    assert sorted(b.name for lane in lanes for b in lane.bundles) == sorted(b.name for b in bundles)
    assert max(lane.finish for lane in lanes) == two
    last = min(seconds[lane.bundles[-1].cells[0].id] for lane in lanes)
    assert last == trained[-1]  # the cheapest is left for the end
    for lane in lanes:
        cells = [cell for bundle in lane.bundles for cell in bundle.cells]
        compiling = timing.COMPILE_SECONDS * len({cell.run.program for cell in cells})
        assert lane.finish == pytest.approx(compiling + sum(seconds[cell.id] for cell in cells))
    seeds = [dataclasses.replace(small, run=dataclasses.replace(small.run, seed=i)) for i in (1, 2)]
    one, two = (make_bundles(SweepConfig(), TrainConfig(), seeds[:i]) for i in (1, 2))
    (alone,), (both,) = (timing.schedule(which, 1e10, 1) for which in (one, two))
    trained = timing.predicted_by_cell(two, 1e10)[seeds[1].id]
    assert both.finish == pytest.approx(alone.finish + trained)  # compiled once


def test_a_worker_prefers_what_it_has_compiled_to_what_is_not_twice_as_long():
    cell = plan()[0]

    def bundle(steps, norm_eps):
        model = dataclasses.replace(cell.run.model, norm_eps=norm_eps)
        run = dataclasses.replace(cell.run, model=model, steps=steps)
        return Bundle(f"{steps}", (dataclasses.replace(cell, run=run),))

    bundles = [bundle(4200, 1e-5), bundle(4000, 1e-6), bundle(3800, 1e-5), bundle(3600, 1e-6)]
    first, second, third, fourth = bundles
    half = bundle(2500, 1e-6)  # 6 s, where the third takes 9 and 5 to compile
    turns = timing.Turns([*bundles, half])
    assert turns.programs(first) == turns.programs(third)
    assert turns.order([fourth, third, second, first]) == bundles
    assert turns.order(bundles[1:], turns.programs(first)) == [third, second, fourth]
    assert turns.order([third, fourth], turns.programs(second)) == [fourth, third]
    assert turns.order([third, half], turns.programs(second)) == [third, half]
    lanes = timing.schedule(bundles, 1e10, 2)
    assert [lane.bundles for lane in lanes] == [(first, third), (second, fourth)]


def trunk_plan(**changes):
    sweep = SweepConfig(
        plan="grid", widths=(16, 32), tokens=(2e5, 4e5, 8e5), rule="fixed", width_step=8, **changes
    )
    optim = OptimConfig(schedule="wsd", warmup_steps=20, decay_fraction=0.25)
    train = TrainConfig(batch_size=8)
    return make_bundles(sweep, train, make_plan(sweep, MODEL, optim, train, "corpus"))


def test_lengths_of_one_size_share_a_trunk():
    bundles = trunk_plan()
    assert [[cell.run.steps for cell in bundle.cells] for bundle in bundles] == [
        [steps_of(tokens) for tokens in (2e5, 4e5, 8e5)]
    ] * 2
    for bundle in bundles:
        assert {cell.run.trunk for cell in bundle.cells} == {bundle.name.removeprefix("trunk-")}
        # Each cell pays for its decay and for what it lengthens the trunk by.
        first, second, third = bundle.cells
        assert bundle.updates == (
            first.run.steps,
            second.run.steps - first.run.shared_steps,
            third.run.steps - second.run.shared_steps,
        )
        assert bundle.total_flops < 0.8 * sum(cell.flops for cell in bundle.cells)


def steps_of(tokens: float) -> int:
    return round(tokens / (8 * MODEL.seq_len))


@pytest.mark.parametrize(
    "optim",
    [
        OptimConfig(schedule="cosine", warmup_steps=20),
        OptimConfig(schedule="linear", warmup_steps=20),
        OptimConfig(schedule="wsd", warmup_fraction=0.1),
        OptimConfig(schedule="wsd", warmup_steps=20, decay_fraction=1.0),
    ],
)
def test_a_rate_that_looks_ahead_has_no_trunk(optim):
    sweep = SweepConfig(plan="grid", widths=(16,), tokens=(2e5, 4e5), rule="fixed")
    train = TrainConfig(batch_size=8)
    sweep = dataclasses.replace(sweep, widths=(16, 32))
    bundles = make_bundles(sweep, train, make_plan(sweep, MODEL, optim, train, "corpus"))
    assert [len(bundle.cells) for bundle in bundles] == [1] * 4


def test_sharing_can_be_switched_off():
    assert [len(bundle.cells) for bundle in trunk_plan(share_trunks=False)] == [1] * 6


def stack_plan(model=MODEL, **changes):
    sweep = SweepConfig(
        plan="grid",
        widths=(16, 32),
        tokens=(2e5, 4e5),
        rule="fixed",
        width_step=8,
        seeds=(0, 1, 2),
        **changes,
    )
    train = TrainConfig(batch_size=8)
    return make_bundles(sweep, train, make_plan(sweep, model, OptimConfig(), train, "corpus"))


def test_cells_of_one_program_are_stacked_by_length():
    assert all(not bundle.stacked for bundle in stack_plan(stack=1))
    bundles = stack_plan(stack=4)
    assert sorted(len(bundle.cells) for bundle in bundles) == [2, 2, 4, 4]
    for bundle in bundles:
        assert bundle.stacked and not bundle.shares
        assert len({cell.run.program for cell in bundle.cells}) == 1
        assert bundle.updates == tuple(cell.run.steps for cell in bundle.cells)
        steps = [cell.run.steps for cell in bundle.cells]
        assert steps == sorted(steps)
    assert len({bundle.name for bundle in bundles}) == 4


def test_a_growing_batch_changes_no_cells_cost():
    sweep = SweepConfig(plan="grid", widths=(16, 32), tokens=(2e5, 4e5), rule="fixed", stack=4)
    plain, grown = (
        make_plan(sweep, MODEL, OptimConfig(), train, "corpus")
        for train in (
            TrainConfig(batch_size=8),
            TrainConfig(batch_size=8, batch_doublings=2, batch_warmup_tokens=50_000),
        )
    )
    for one, two in zip(plain, grown, strict=True):
        assert (one.run.tokens, one.flops) == (two.run.tokens, two.flops) and one.id != two.id
    bundles = make_bundles(sweep, TrainConfig(), grown)
    assert len(bundles) == len(grown) and not any(bundle.stacked for bundle in bundles)
    train = TrainConfig(batch_size=12, batch_doublings=3, batch_warmup_tokens=50_000)
    with pytest.raises(UserError, match=r"batch_size=12 cannot be .* set train.batch_size=16"):
        make_plan(sweep, MODEL, OptimConfig(), train, "corpus")


def test_a_stack_is_no_larger_than_its_memory():
    run = stack_plan(stack=1)[0].cells[0].run
    three = 3.5 * memory.estimate_bytes(run).total / 2**30
    sizes = [len(b.cells) for b in stack_plan(stack=6, stack_gb=three) if b.cells[0].run == run]
    assert sizes == [3]
    assert all(not bundle.stacked for bundle in stack_plan(stack=6, stack_gb=1e-9))
