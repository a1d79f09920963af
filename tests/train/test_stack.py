"""A stack of runs gives each member what a run of its own gives, whatever happens beside it."""

import dataclasses
import math

import numpy as np
import pytest

from gptjax.optim import OptimConfig
from gptjax.train import Diverged, Hooks, Interrupted, Session, StackHooks, TrainConfig, run
from gptjax.train.stack import Branches, members_after, run_stack


class Heard:
    """What a stack told."""

    def __init__(self):
        self.results, self.lost = {}, {}

    def hooks(self, stop=lambda: False, progress=lambda p: None):
        return StackHooks(
            Hooks(stop=stop, progress=progress), self.results.__setitem__, self.lost.__setitem__
        )


def changed(spec, steps=None, seed=None, model=None, **optim):
    return dataclasses.replace(
        spec,
        steps=steps or spec.steps,
        seed=spec.seed if seed is None else seed,
        model=dataclasses.replace(spec.model, **(model or {})),
        optim=dataclasses.replace(spec.optim, **optim),
    )


@pytest.fixture(scope="module")
def specs(spec):
    """Members that differ in everything in which they may."""
    return [
        spec,
        changed(spec, seed=4),
        changed(spec, learning_rate=3e-3, steps=9),
        changed(spec, weight_decay=0.5),
        changed(spec, model={"init_scale": 0.2}, steps=31),
    ]


def alone(session, spec, folder):
    return run(session, spec, folder, Hooks())


def test_every_member_equals_a_run_of_its_own(session, specs, tmp_path):
    assert len({spec.program for spec in specs}) == 1
    heard = Heard()
    run_stack(session, specs, tmp_path / "stack", heard.hooks())
    assert sorted(heard.results) == [0, 1, 2, 3, 4] and not heard.lost
    losses = []
    for i, spec in enumerate(specs):
        own = alone(session, spec, tmp_path / str(i))
        mine = heard.results[i]
        losses.append(own.evaluation.loss)
        assert mine.evaluation.loss == pytest.approx(own.evaluation.loss, rel=2e-6)
        assert mine.curve_steps == own.curve_steps
        np.testing.assert_allclose(mine.curve_losses, own.curve_losses, rtol=2e-5)
        assert mine.updates == spec.steps
    assert min(np.diff(sorted(losses))) > 1e-4  # the members do differ


QUICK = [{"sam_rho": 0.05, "ema_decay": 0.9}]
MORE = [
    {"name": "adam8bit"},
    {"sam_rho": 0.05},
    {"ema_decay": 0.9},
    {"name": "muon"},
    {"name": "lion", "learning_rate": 1e-3},
    {"name": "adafactor"},
    {"name": "schedule_free", "schedule": "constant"},
    {"name": "sgd", "learning_rate": 0.1},
    {"adversarial_epsilon": 0.1},
    {"skip_not_finite": 3},
]


@pytest.mark.parametrize(
    "optim",
    [*QUICK, *(pytest.param(one, marks=pytest.mark.slow) for one in MORE)],
    ids=lambda optim: "-".join(map(str, optim.values())),
)
def test_every_optimizer_can_be_stacked(session, spec, optim, tmp_path):
    base = changed(spec, steps=6, **optim)
    pair = [base, changed(base, seed=9, learning_rate=base.optim.learning_rate / 2)]
    heard = Heard()
    run_stack(session, pair, tmp_path / "stack", heard.hooks())
    for i, member in enumerate(pair):
        own = alone(session, member, tmp_path / str(i))
        # A rounding to 8 bits, or a sign (lion), may fall the other way after a last-digit change.
        rel = 1e-3 if optim.get("name") in ("adam8bit", "lion") else 1e-5
        assert heard.results[i].evaluation.loss == pytest.approx(own.evaluation.loss, rel=rel)


def test_a_stack_that_was_stopped_ends_with_the_same_bits(session, specs, tmp_path):
    whole, parts = Heard(), Heard()
    run_stack(session, specs, tmp_path / "whole", whole.hooks())
    steps = [0]
    for limit in (1, 9, 24):  # before, while and after members leave
        with pytest.raises(Interrupted):
            hooks = parts.hooks(
                stop=lambda limit=limit: steps[-1] >= limit,
                progress=lambda progress: steps.append(progress.step),
            )
            run_stack(session, specs, tmp_path / "parts", hooks, parts.results)
    run_stack(session, specs, tmp_path / "parts", parts.hooks(), parts.results)
    for i in whole.results:
        assert parts.results[i].params_digest == whole.results[i].params_digest
        assert parts.results[i].curve_losses == whole.results[i].curve_losses
        assert parts.results[i].evaluation == whole.results[i].evaluation
    assert whole.results[4].updates == 31 and parts.results[4].updates == 31 - steps[-1]
    assert parts.results[4].earlier == steps[-1]


def test_a_diverging_member_does_not_touch_its_neighbours(session, spec, tmp_path):
    calm = [spec, changed(spec, seed=4), changed(spec, seed=5)]
    wild = [spec, changed(spec, seed=4, learning_rate=1e30), changed(spec, seed=5)]
    both = [Heard(), Heard()]
    for heard, members, name in zip(both, (calm, wild), "ab", strict=True):
        run_stack(session, members, tmp_path / name, heard.hooks())
    assert sorted(both[1].results) == [0, 2] and isinstance(both[1].lost[1], Diverged)
    for i in (0, 2):
        assert both[0].results[i].params_digest == both[1].results[i].params_digest
    with pytest.raises(Diverged) as own:
        alone(session, wild[1], tmp_path / "own")
    assert str(both[1].lost[1]) == str(own.value)


def test_a_branch_that_diverges_says_at_which_step_of_its_run(session, spec, tmp_path):
    members = [spec, changed(spec, seed=4, learning_rate=1e30)]

    def states():
        inits = [session.init(member) for member in members]
        return [dataclasses.replace(state, step=state.step + 6) for state in inits]

    heard = Heard()
    run_stack(session, members, tmp_path, heard.hooks(), branches=Branches([6, 6], states))
    assert sorted(heard.results) == [0] and heard.results[0].updates == spec.steps - 6
    assert 6 <= int(str(heard.lost[1]).split()[-1]) < spec.steps


def test_evaluations_on_the_way_survive_an_interruption(session, spec, tmp_path):
    programs, session = session._programs, Session(session.corpus, TrainConfig(evaluations=4))
    session._programs = programs  # they are the same
    members = [spec, changed(spec, seed=4, steps=10)]
    heard, steps = Heard(), [0]
    with pytest.raises(Interrupted):
        hooks = heard.hooks(
            stop=lambda: steps[-1] >= 12, progress=lambda progress: steps.append(progress.step)
        )
        run_stack(session, members, tmp_path / "stack", hooks)
    run_stack(session, members, tmp_path / "stack", heard.hooks(), heard.results)
    for i, member in enumerate(members):
        own = alone(session, member, tmp_path / str(i))
        mine = heard.results[i].history
        assert [step for step, _ in mine] == [step for step, _ in own.history]
        assert [loss for _, loss in mine] == pytest.approx([loss for _, loss in own.history])


def test_members_leave_when_they_are_half_of_the_stack():
    ends = [5, 7, 9, 20, 30, 40]
    sizes = [len(members_after(ends, step)) for step in (0, 5, 7, 9, 20, 30, 40)]
    assert sizes == [6, 6, 6, 3, 3, 1, 0]
    for step in range(40):
        open_members = {i for i, end in enumerate(ends) if end > step}
        inside = set(members_after(ends, step))
        assert open_members <= inside and len(inside) < 2 * len(open_members) + 1


def test_optimizer_config_names_no_program(spec):
    """A decay of zero is another program: its chain has no decay at all."""
    assert changed(spec, weight_decay=0.0).program != spec.program
    assert changed(spec, weight_decay=0.3).program == spec.program
    assert math.isclose(OptimConfig().weight_decay, 0.1)
