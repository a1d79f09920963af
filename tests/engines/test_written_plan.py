"""The written plan: workers read it and plan nothing."""

import json

import pytest

from gptjax.engines import cells as planned
from gptjax.engines.cells import read_plan, write_plan
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.models.rope import RopeConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import SweepConfig, make_bundles
from gptjax.sweeps import make_plan as make_cells
from gptjax.train import TrainConfig

MODEL = ModelConfig(
    depth=1, width=16, num_heads=1, seq_len=32, vocab_size=257, rope=RopeConfig(base=5e4)
)


@pytest.fixture
def plan():
    """Two sizes at three lengths, so that lengths share trunks."""
    sweep = SweepConfig(
        plan="grid", widths=(16, 32), tokens=(2e4, 4e4, 8e4), rule="fixed", head_width=16
    )
    optim = OptimConfig(schedule="wsd", warmup_steps=4, b2=0.98)
    cells = make_cells(sweep, MODEL, optim, TrainConfig(batch_size=4), "corpus")
    return planned.Plan(tuple(cells), tuple(make_bundles(sweep, TrainConfig(), cells)))


def test_a_plan_is_read_as_it_was_written(tmp_path, plan):
    write_plan(tmp_path, plan)
    assert read_plan(tmp_path) == plan
    assert {bundle.shares for bundle in plan.bundles} == {True}


def test_a_damaged_plan_is_refused(tmp_path, plan):
    with pytest.raises(UserError, match=r"cells[.]json does not exist"):
        read_plan(tmp_path)
    write_plan(tmp_path, plan)
    path = tmp_path / planned.PLAN
    content = json.loads(path.read_text())
    first = next(iter(content["cells"].values()))
    for change in ({"cells": 1}, {"bundles": [{}]}, {"schema": 9}):
        path.write_text(json.dumps({**content, **change}))
        with pytest.raises(UserError, match=r"cells[.]json is damaged"):
            read_plan(tmp_path)
    first["run"]["train.seed"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(UserError, match=r"cells[.]json is damaged"):
        read_plan(tmp_path)
