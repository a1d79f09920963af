"""Schedules as tables: the bubble, what a stage holds, and that nothing runs before its inputs."""

import itertools

import pytest

from gptjax.parallel.schedules import BACKWARD, FORWARD, make_program, make_schedule

SIZES = [(2, 2), (2, 8), (4, 4), (4, 12), (3, 5)]


@pytest.mark.parametrize("name", ["gpipe", "1f1b"])
@pytest.mark.parametrize("p, m", SIZES)
def test_the_bubble_is_the_papers(name, p, m):
    """(p−1)/(m+p−1) of the ticks: Huang et al. 2019, section 2; Narayanan et al. 2021, 2.2."""
    assert make_schedule(name, p, m).bubble == pytest.approx((p - 1) / (m + p - 1))


@pytest.mark.parametrize("p, m, v", [(2, 4, 2), (4, 8, 2), (4, 16, 4), (2, 2, 3)])
def test_interleaving_shrinks_the_bubble(p, m, v):
    bubble = make_schedule("interleaved", p, m, v).bubble
    assert bubble == pytest.approx((p - 1) / (v * m + p - 1))
    assert bubble < make_schedule("1f1b", p, m).bubble


@pytest.mark.parametrize("p, m", SIZES)
def test_what_a_stage_holds(p, m):
    """All micro-batches with gpipe, at most one a stage with 1f1b, whatever their number."""
    assert make_schedule("gpipe", p, m).held == m
    assert make_schedule("1f1b", p, m).held == min(p, m)
    assert make_program(make_schedule("gpipe", p, m)).x_slots == m
    assert make_program(make_schedule("1f1b", p, m)).x_slots <= p


@pytest.mark.parametrize(
    "name, p, m, v", [("gpipe", 3, 5, 1), ("1f1b", 3, 5, 1), ("interleaved", 4, 8, 2)]
)
def test_every_pass_runs_once_and_after_its_inputs(name, p, m, v):
    schedule = make_schedule(name, p, m, v)
    at = {}
    for tick, row in enumerate(schedule.ops):
        for stage, op in enumerate(row):
            if op is not None:
                key = (op[0], op[1] * p + stage, op[2])
                assert key not in at
                at[key] = tick
    assert set(at) == set(itertools.product((FORWARD, BACKWARD), range(p * v), range(m)))
    for (kind, k, i), tick in at.items():
        if kind == FORWARD and k > 0:
            assert at[FORWARD, k - 1, i] < tick
        if kind == BACKWARD:
            assert at[FORWARD, k, i] < tick
            assert k == p * v - 1 or at[BACKWARD, k + 1, i] < tick
