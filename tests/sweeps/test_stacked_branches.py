"""Branches of one trunk side by side: the records of separate runs, however often a worker dies."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import pytest

from gptjax import data
from gptjax.engines.claimed_bundle import ClaimedBundle, _read_grown
from gptjax.engines.worker import WorkerOptions, work
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import make_bundles, make_plan, records
from gptjax.sweeps.config import SweepConfig
from gptjax.train import Fork, Interrupted, RunResult, Session, Superseded, TrainConfig, clock
from gptjax.train.evaluate import Evaluation

OPTIM = OptimConfig(schedule="wsd", warmup_steps=5, learning_rate=1e-2)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        (folder / f"{i}.txt").write_text(" ".join(f"word{(i * k) % 23} {k % 7}" for k in range(60)))
    config = data.DataConfig(
        source="text",
        path=str(folder),
        heldout_fraction=0.2,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    return data.load(config, seq_len=16)


def plan(corpus, **changes):
    """(cells, bundles): one width and three lengths, so one trunk with three branches."""
    model = ModelConfig(
        depth=1,
        width=16,
        num_heads=2,
        seq_len=16,
        vocab_size=corpus.vocab_size,
        positions="rotary",
        mlp="relu",
        norm="rmsnorm",
        use_bias=False,
        init_scale=0.1,
    )
    sweep = SweepConfig(
        plan="grid",
        widths=(16, 32),
        tokens=(1280.0, 2560.0, 4480.0),
        rule="fixed",
        head_width=8,
        **changes,
    )
    train = TrainConfig(batch_size=4)
    both = make_plan(sweep, model, OPTIM, train, corpus.fingerprint)
    cells = [cell for cell in both if cell.run.model.width == 16]
    return cells, make_bundles(sweep, train, cells)


@pytest.fixture(scope="module")
def session(corpus):
    return Session(corpus, TrainConfig(evaluations=10))


def done_records(folder, session, cells, bundles, stop=lambda: False):
    options = WorkerOptions(name="w", attempts=1, claim_seconds=60.0)
    work(folder, bundles, session, options, stop)
    return [records.read_records(folder, [cell])[0] for cell in cells]


def test_branches_are_stacked_where_all_have_room(corpus):
    for room, stacked in ((3, True), (2, False), (1, False)):
        (bundle,) = plan(corpus, stack=room)[1]
        assert bundle.shares and bundle.stacked is stacked
        assert bundle.updates == tuple(
            cell.run.steps - (before.run.shared_steps if before else 0)
            for before, cell in zip((None, *bundle.cells), bundle.cells, strict=False)
        )


def test_stacked_branches_equal_runs_of_their_own(corpus, session, tmp_path):
    cells, stacked = plan(corpus, stack=3)
    _, apart = plan(corpus, share_trunks=False)
    side = done_records(tmp_path / "side", session, cells, stacked)
    own = done_records(tmp_path / "own", session, cells, apart)
    losses = [record["loss"] for record in own]
    assert losses == sorted(losses, reverse=True)
    for mine, other in zip(side, own, strict=True):
        assert mine["status"] == other["status"] == "done"
        assert mine["loss"] == pytest.approx(other["loss"], rel=1e-5)
        branch = mine["history"]  # what was evaluated after the trunk
        assert len(branch) > 1
        for (step, loss), (same, wanted) in zip(branch[::-1], other["history"][::-1], strict=False):
            assert step == same and loss == pytest.approx(wanted, rel=1e-5)
    assert not any((tmp_path / "side" / "cells").iterdir())
    in_turn = plan(corpus, stack=1)[1]
    done_records(tmp_path / "in turn", session, cells, in_turn)
    for folder, bundles in (("side", stacked), ("in turn", in_turn), ("own", apart)):
        # Each cell pays for its decay and for what it lengthens the trunk by.
        spent = [timing_of(tmp_path / folder, cell)["updates"] for cell in cells]
        assert spent == [updates for bundle in bundles for updates in bundle.updates]


def timing_of(folder, cell):
    return json.loads((folder / "timing" / f"{cell.id}.json").read_text())


def test_a_branch_bears_the_seconds_of_its_trunk(corpus):
    """And those of no other cell's."""
    seconds = {"train": 1.0, "compile": 0.5, "evaluate": 0.25}
    result = RunResult(Evaluation(2.0, 0.1, 3.0), (), (), (), "", 0, updates=3, seconds=seconds)
    cell, other, _ = plan(corpus)[0]
    worker = SimpleNamespace(_grown={cell.id: (7, {"train": 4.0, "compile": 2.0})})
    found = ClaimedBundle._with_trunk(worker, cell, result)
    assert found.updates == 10
    assert found.seconds == {"train": 5.0, "compile": 2.5, "evaluate": 0.25}
    assert ClaimedBundle._with_trunk(worker, other, result) is result


def test_the_cost_of_a_trunk_is_kept_by_who_holds_the_claim(tmp_path):
    """And added to what earlier processes spent on the same cell."""
    worker = SimpleNamespace(_grown={}, _grown_path=tmp_path / "grown.json", ask=lambda: None)
    cell, fork = SimpleNamespace(id="a"), Fork(None, 3, {"train": 1.5}, earlier=4)
    ClaimedBundle._keep_grown(worker, cell, fork)
    worker._grown = _read_grown(worker._grown_path)
    ClaimedBundle._keep_grown(worker, cell, fork)
    kept = worker._grown_path.read_bytes()
    assert _read_grown(worker._grown_path) == {"a": (14, {"train": 3.0})}

    def superseded():
        raise Superseded

    worker.ask = superseded
    with pytest.raises(Superseded):
        ClaimedBundle._keep_grown(worker, cell, fork)
    assert worker._grown_path.read_bytes() == kept


def test_stopped_wherever_it_may_stop_the_bits_are_the_same(corpus, session, tmp_path, monkeypatch):
    """Stopped after every tenth step: in the trunk, after it, and while members leave."""
    monkeypatch.setattr(clock, "CALL_SECONDS", 0.0)  # calls of one step
    cells, bundles = plan(corpus, stack=3)
    whole = done_records(tmp_path / "whole", session, cells, bundles)
    stops = 0
    while True:
        asked = itertools.count()
        try:
            parts = done_records(
                tmp_path / "parts",
                session,
                cells,
                bundles,
                stop=lambda asked=asked: next(asked) >= 10,
            )
        except Interrupted:
            stops += 1
            continue
        break
    assert stops >= 4
    for mine, other in zip(parts, whole, strict=True):
        assert mine == other
    for cell in cells:  # and what the parts cost is added up
        whole, parts = (timing_of(tmp_path / name, cell) for name in ("whole", "parts"))
        assert whole["earlier"] == 0
        assert parts["updates"] + parts["earlier"] == whole["updates"]


def test_a_trunk_that_diverges_fails_every_branch_with_the_reason(corpus, session, tmp_path):
    cells, bundles = plan(corpus, stack=3)
    wild = [
        dataclasses.replace(
            cell,
            run=dataclasses.replace(
                cell.run, optim=dataclasses.replace(cell.run.optim, learning_rate=1e30)
            ),
        )
        for cell in cells
    ]
    bundles = [dataclasses.replace(bundles[0], cells=tuple(wild))]
    for record in done_records(tmp_path, session, wild, bundles):
        assert record["status"] == "failed"
        assert "the training loss is nan at step" in record["reason"]
