"""Sweeps of thousands: what a plan and a look cost, counted and not timed."""

import dataclasses

import numpy as np
import pytest

from gptjax.config import default_config, make_config
from gptjax.engines import display as displays
from gptjax.engines.worker import OpenBundles
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import Claims, SweepConfig, make_bundles, make_plan, records, timing
from gptjax.sweeps.bundles import Bundle
from gptjax.train import TrainConfig

MODEL = ModelConfig(depth=1, width=16, num_heads=2, seq_len=16, vocab_size=97, use_bias=False)


def bundles_of(seeds, widths=(16, 24, 32, 48)):
    sweep = SweepConfig(
        plan="grid", widths=widths, tokens=(1e5, 4e5, 1e6), seeds=tuple(range(seeds)), stack=1
    )
    cells = make_plan(sweep, MODEL, OptimConfig(), TrainConfig(), "corpus")
    return make_bundles(sweep, TrainConfig(), cells)


def one_after_the_other(bundles, reference, workers):
    """The same schedule from `Turns.order` of all that is left, over and over."""
    turns, left = timing.Turns(bundles), list(bundles)
    seconds = timing.predicted_by_cell(bundles, reference)
    lanes, compiled = [([], 0.0)] * workers, [set() for _ in range(workers)]
    while left:
        i = min(range(workers), key=lambda lane: lanes[lane][1])
        bundle = turns.order(left, compiled[i])[0]
        left.remove(bundle)
        new = turns.programs(bundle) - compiled[i]
        compiled[i] |= new
        spent = timing.COMPILE_SECONDS * len(new) + sum(seconds[c.id] for c in bundle.cells)
        lanes[i] = ([*lanes[i][0], bundle.name], lanes[i][1] + spent)
    return lanes


@pytest.mark.parametrize("workers", [1, 3])
def test_a_schedule_is_that_of_the_turns(workers):
    bundles = bundles_of(4)
    several = Bundle("several", tuple(one.cells[0] for one in (bundles[0], bundles[-1])))
    for reference in (1e8, 1e9, 1e11):  # long, middling and short beside compiling
        found = timing.schedule([*bundles, several], reference, workers)
        wanted = one_after_the_other([*bundles, several], reference, workers)
        assert [[one.name for one in lane.bundles] for lane in found] == [w[0] for w in wanted]
        assert [lane.finish for lane in found] == [w[1] for w in wanted]


def test_a_schedule_grows_with_the_number_of_bundles(monkeypatch):
    asked = []
    seconds = timing.Turns.seconds
    monkeypatch.setattr(
        timing.Turns, "seconds", lambda *a: asked.append(1) or seconds(*a), raising=True
    )
    counts = []
    for seeds in (5, 20):
        asked.clear()
        timing.schedule(bundles_of(seeds), 1e9, 2)
        counts.append(len(asked))
    assert counts[1] < 5 * counts[0]  # four times the bundles; each after each would be 16


class Looks:
    """Counts the questions whether a cell has a record."""

    def __init__(self, monkeypatch):
        self.count = 0
        has_record = records.has_record
        monkeypatch.setattr(records, "has_record", lambda *a: self._note() or has_record(*a))

    def _note(self):
        self.count += 1

    def during(self, action):
        before = self.count
        action()
        return self.count - before


def finished(folder, bundles):
    for bundle in bundles:
        path = records.record_path(folder, bundle.cells[0])
        path.parent.mkdir(exist_ok=True)
        path.touch()


@pytest.mark.parametrize("seeds", [2, 10])
def test_an_idle_workers_look_does_not_depend_on_what_is_done(tmp_path, monkeypatch, seeds):
    bundles = bundles_of(seeds)
    finished(tmp_path, bundles[1:])
    assert Claims(tmp_path, stale_seconds=60).take(bundles[0].name)  # somebody else's
    looks = Looks(monkeypatch)
    worker = OpenBundles(tmp_path, bundles, Claims(tmp_path, stale_seconds=60))
    assert worker.take() is None and list(worker.left) == [bundles[0].name]
    assert looks.count == len(bundles)  # once each
    assert looks.during(worker.take) == 1


def test_a_worker_takes_one_without_looking_at_the_others(tmp_path, monkeypatch):
    bundles = bundles_of(10)
    worker = OpenBundles(tmp_path, bundles, Claims(tmp_path, stale_seconds=60))
    looks = Looks(monkeypatch)
    taken = worker.take()
    assert taken is timing.longest_first(bundles)[0] and looks.count <= 2
    worker.compile(taken)
    worker.put_back(taken)
    finished(tmp_path, [taken])
    assert worker.take() is not taken and taken.name not in worker.left


def test_what_others_hold_and_give_back_is_taken_in_its_turn(tmp_path):
    bundles = bundles_of(2)
    others = Claims(tmp_path, stale_seconds=60)
    order = timing.longest_first(bundles)
    assert others.take(order[0].name) and others.take(order[1].name)
    worker = OpenBundles(tmp_path, bundles, Claims(tmp_path, stale_seconds=60))
    assert worker.take() is order[2]
    others.release(order[0].name)
    assert worker.take() is order[0]


@pytest.mark.parametrize("seeds", [2, 10])
def test_an_update_of_the_display_does_not_depend_on_what_is_done(tmp_path, monkeypatch, seeds):
    bundles = bundles_of(seeds)
    finished(tmp_path, bundles[2:])
    display = displays.Display(make_config(default_config()), tmp_path, bundles)
    looks, shown = Looks(monkeypatch), []
    monkeypatch.setattr(display, "_line", lambda done, left, running: shown.append(done) or "")
    monkeypatch.setattr(displays, "LINE_SECONDS", 0.0)
    display.update()
    assert looks.count == len(bundles)
    assert looks.during(display.update) == 0
    monkeypatch.setattr(displays, "LOOK_SECONDS", 0.0)
    finished(tmp_path, bundles[:1])
    assert looks.during(display.update) == 2  # those that were open
    flops = [bundle.total_flops for bundle in bundles]
    assert np.allclose(shown, [sum(flops[2:])] * 2 + [flops[0] + sum(flops[2:])])


def test_a_cell_that_runs_counts_by_what_it_has_done(tmp_path, monkeypatch):
    bundles = bundles_of(1)
    cell = bundles[0].cells[0]
    display = displays.Display(make_config(default_config()), tmp_path, bundles)
    state = {"cell": cell.id, "beside": [], "step": cell.run.steps // 2}
    display._look({cell.id})
    assert display._shares([state]) == {cell.id: pytest.approx(0.5, rel=0.1)}
    finished(tmp_path, bundles[:1])
    display._look({cell.id})
    assert display._shares([state]) == {} and dataclasses.asdict(display._done)["cells"] == 1
