"""Claims between workers, failures that do not stop a sweep, records that hold no times."""

import dataclasses
import json
import os
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jax
import pytest

from gptjax.engines import claimed_bundle
from gptjax.engines.worker import WorkerOptions, work
from gptjax.errors import UserError
from gptjax.models import ModelConfig
from gptjax.ops.backend import product_rate
from gptjax.optim import OptimConfig
from gptjax.sweeps import (
    Bundle,
    Cell,
    Claims,
    differences,
    environment,
    kinds,
    read_records,
    record_path,
    records,
    write_tables,
)
from gptjax.train import (
    Diverged,
    Evaluation,
    Interrupted,
    OtherRun,
    RunResult,
    RunSpec,
    Superseded,
)

MODEL = ModelConfig(depth=1, width=8, num_heads=1, seq_len=16, vocab_size=257)


class FakeSession:
    class corpus:
        entropy_nats = None
        parts = ()

    def layout_of(self, spec):
        return None


def cell(seed: int) -> Cell:
    run = RunSpec(model=MODEL, optim=OptimConfig(), batch_size=4, steps=10, seed=seed)
    return Cell(run=run, corpus="c", budget=1e9)


def alone(one: Cell) -> Bundle:
    return Bundle(one.id, (one,))


def result(loss: float = 1.0) -> RunResult:
    return RunResult(
        evaluation=Evaluation(loss, 0.01, 1.4),
        history=((10, loss),),
        curve_steps=(5, 10),
        curve_losses=(2.0, 1.5),
        params_digest="d",
        skipped_steps=0,
        updates=10,
        seconds={"compile": 1.0, "train": 2.0, "evaluate": 0.1, "checkpoint": 0.0},
    )


def test_one_holder_at_a_time(tmp_path):
    a, b = (Claims(tmp_path, stale_seconds=10.0) for _ in range(2))
    assert a.take("x") and not b.take("x")
    assert a.take("x")  # our own claim is no obstacle
    b.release("x")  # another's release does nothing
    assert not b.take("x")
    a.release("x")
    assert b.take("x")


def test_a_dead_process_loses_its_claim_at_once(tmp_path, monkeypatch):
    """The claim is taken here, in the name of a process that then ends."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        with monkeypatch.context() as patch:
            patch.setattr(os, "getpid", lambda: other.pid)
            assert Claims(tmp_path, stale_seconds=1e6).take("x")
        assert not Claims(tmp_path, stale_seconds=1e6).take("x")
    assert Claims(tmp_path, stale_seconds=1e6).take("x")


class Clock:
    """Seconds that pass when they are told to."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def elsewhere(tmp_path, beat: int, token: int = 1) -> Path:
    """A claim of a worker on another machine, whose counter stands at `beat`."""
    path = tmp_path / "claims" / "x" / f"{token}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"worker": "w", "host": "elsewhere", "boot": "b", "namespace": "n", "pid": 1}
    path.write_text(json.dumps({**owner, "started": "1", "beat": beat}))
    return path


def test_another_machines_claim_holds_while_its_counter_moves(tmp_path):
    clock = Clock()
    claims = Claims(tmp_path, stale_seconds=30.0, clock=clock)
    for beat in range(5):
        elsewhere(tmp_path, beat)
        assert not claims.take("x")
        clock.now += 29.0
    assert not claims.take("x")
    clock.now += 2.0
    assert claims.take("x") and claims.token("x") == 2


def test_no_clock_but_the_observers_own_is_read(tmp_path):
    path = elsewhere(tmp_path, 0)
    for shift in (-7200, 7200):
        os.utime(path, (time.time() + shift,) * 2)
        assert not Claims(tmp_path, stale_seconds=30.0).take("x")


@pytest.mark.parametrize("name", ["host", "boot", "namespace"])
def test_a_process_number_means_nothing_in_another_namespace(tmp_path, name):
    """The number of a dead process here may be that of a live one there."""
    assert Claims(tmp_path, stale_seconds=30.0).take("x")
    (path,) = (tmp_path / "claims" / "x").iterdir()
    owner = json.loads(path.read_text())
    path.write_text(json.dumps({**owner, "pid": 2**22 + 1, name: "another"}))
    assert not Claims(tmp_path, stale_seconds=30.0).take("x")
    path.write_text(json.dumps({**owner, "pid": 2**22 + 1}))
    assert Claims(tmp_path, stale_seconds=30.0).take("x")


def test_a_damaged_claim_is_taken_over_after_its_time(tmp_path):
    clock = Clock()
    path = elsewhere(tmp_path, 0)
    path.write_text("{")
    claims = Claims(tmp_path, stale_seconds=30.0, clock=clock)
    assert not claims.take("x")
    clock.now += 31.0
    assert claims.take("x")


def test_heartbeat_counts_up(tmp_path):
    claims = Claims(tmp_path, stale_seconds=0.2)
    claims.take("x")
    with claims.heartbeat("x"):
        time.sleep(0.5)
    (path,) = (tmp_path / "claims" / "x").iterdir()
    assert json.loads(path.read_text())["beat"] >= 1


def test_the_loser_of_a_takeover_is_told_and_its_heartbeat_changes_nothing(tmp_path):
    clock = Clock()
    slow, quick = (Claims(tmp_path, stale_seconds=0.2, clock=clock) for _ in range(2))
    assert slow.take("x")
    slow.check("x")
    assert not quick.take("x")
    clock.now += 1.0
    assert quick.take("x") and quick.token("x") > slow.token("x")
    with slow.heartbeat("x"):
        time.sleep(0.2)
    quick.check("x")
    with pytest.raises(Superseded):
        slow.check("x")
    slow.release("x")
    quick.check("x")
    quick.release("x")
    with pytest.raises(Superseded):
        slow.check("x")
    assert slow.take("x") and slow.token("x") == 3  # a token is never used twice


def test_one_of_many_takes_a_claim(tmp_path):
    many = [Claims(tmp_path, stale_seconds=10.0) for _ in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda one: one.take("x"), many)) == 1


def taken_over(tmp_path, name: str) -> None:
    """Another worker takes the claim while its holder is stopped."""
    path = max((tmp_path / "claims" / name).glob("*.json"))
    (path.parent / f"{int(path.stem) + 1}.json").write_text(
        json.dumps({"worker": "w", "host": "elsewhere", "pid": 1, "started": "1", "beat": 0})
    )


def test_a_worker_that_lost_its_claim_writes_no_record_and_goes_on(tmp_path, monkeypatch, capsys):
    cells = [cell(seed) for seed in range(2)]

    def outcome(session, spec, folder, hooks, start):
        if spec.seed == 0:
            taken_over(tmp_path, cells[0].id)
            with pytest.raises(Superseded):
                hooks.before_save()
        return result()

    monkeypatch.setattr(claimed_bundle, "run", outcome)
    options = WorkerOptions(name="w", attempts=1, claim_seconds=10.0, wait_for_others=False)
    work(tmp_path, [alone(one) for one in cells], FakeSession(), options, lambda: False)
    assert [record["seed"] for record in read_records(tmp_path, cells)] == [1]
    assert "another worker has taken over" in capsys.readouterr().err


def test_the_first_record_stays(tmp_path, monkeypatch, capsys):
    one = cell(0)

    def outcome(session, spec, folder, hooks, start):
        records.write_done(tmp_path, one, result(2.5), entropy=None, worker="other")
        return result(1.0)

    (record,) = run_worker(tmp_path, [one], monkeypatch, outcome).values()
    assert record["loss"] == 2.5
    assert "is there already with loss 2.5; it stays, and loss 1.0 is not used" in (
        capsys.readouterr().err
    )


def test_checkpoints_pass_from_holder_to_holder(tmp_path, monkeypatch):
    """Each has a folder of its own, below its token; what a stopped one saves later is not read."""
    one, folders = cell(0), []

    def outcome(session, spec, folder, hooks, start):
        folders.append(folder)
        if len(folders) == 1:
            (folder / "checkpoints").mkdir(parents=True)
            raise Interrupted("stopped")
        assert (folder / "checkpoints").is_dir() and not folders[0].exists()
        return result()

    with pytest.raises(Interrupted):
        run_worker(tmp_path, [one], monkeypatch, outcome)
    run_worker(tmp_path, [one], monkeypatch, outcome)
    assert [int(folder.name) for folder in folders] == [1, 2]
    assert not (tmp_path / "cells" / one.id).exists()


def test_checkpoints_of_a_version_without_tokens_are_taken_over(tmp_path, monkeypatch):
    one = cell(0)
    (tmp_path / "cells" / one.id / "checkpoints").mkdir(parents=True)

    def outcome(session, spec, folder, hooks, start):
        assert (folder / "checkpoints").is_dir()
        return result()

    run_worker(tmp_path, [one], monkeypatch, outcome)


CHANGES = {
    "a loss": (lambda record: record | {"loss": 0.5}, "was changed after it was written"),
    "another cell": (
        lambda record: record | {"run": record["run"] | {"train.seed": 7}},
        "holds the record of another cell",
    ),
    "another corpus": (lambda record: record | {"corpus": "d"}, "holds the record of another cell"),
    "a newer version": (lambda record: record | {"schema": 99}, "was written by a newer gptjax"),
    "a list": (lambda record: [], "is not a record; delete it"),
    "nothing": (lambda record: {}, "is not a record; delete it"),
    "a word": (lambda record: record | {"schema": "x"}, "is not a record; delete it"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_that_no_worker_wrote_is_refused_by_name(tmp_path, monkeypatch, change):
    one = cell(0)
    run_worker(tmp_path, [one], monkeypatch, lambda *a: result())
    path = record_path(tmp_path, one)
    edit, words = CHANGES[change]
    path.write_text(json.dumps(edit(json.loads(path.read_text()))))
    with pytest.raises(UserError, match=f"{one.id}.json {words}"):
        read_records(tmp_path, [one])


def test_a_record_says_what_made_it(tmp_path, monkeypatch):
    (record,) = run_worker(tmp_path, [cell(0)], monkeypatch, lambda *a: result()).values()
    assert record["made_by"]["jax"] == jax.__version__
    assert record["made_by"]["platform"] == "cpu"
    assert set(record["made_by"]) >= {"jaxlib", "python", "device", "processor"}


def test_failed_cells_are_open_again_when_their_records_are_set_aside(tmp_path, monkeypatch):
    def fails(session, spec, *rest):
        raise MemoryError

    cells = [cell(0), cell(1)]
    run_worker(tmp_path, cells, monkeypatch, fails)
    (first, _, again) = records.failures(read_records(tmp_path, cells))
    assert first == f"cell {cells[0].id} (width 8, budget 1e+09) failed: out of memory: MemoryError"
    assert "sweep.retry_failed=true" in again
    assert records.set_failed_aside(tmp_path, cells) == 2
    found = run_worker(tmp_path, cells, monkeypatch, lambda *a: result())
    assert {record["status"] for record in found.values()} == {"done"}
    assert records.set_failed_aside(tmp_path, cells) == 0
    assert len(list((tmp_path / "failed").iterdir())) == 2


def test_a_cell_that_raises_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    def outcome(session, spec, *rest):
        if spec.seed == 0:
            raise KeyError("what no check foresaw")
        return result()

    found = run_worker(tmp_path, [cell(0), cell(1)], monkeypatch, outcome)
    assert [found[seed]["status"] for seed in range(2)] == ["failed", "done"]
    assert found[0]["reason"] == "KeyError: 'what no check foresaw'"


def test_what_only_damage_can_have_left_is_set_aside(tmp_path, monkeypatch, capsys):
    """A folder of ours that names another run: of the cell, or of its trunk."""
    one, places = cell(0), [tmp_path / "cells" / name for name in ("cell", "trunk")]
    for place in places:
        place.mkdir(parents=True)

    def outcome(*rest):
        for place in places:
            if place.exists():
                raise OtherRun(f"{place} holds a checkpoint of another run", place)
        return result()

    (record,) = run_worker(tmp_path, [one], monkeypatch, outcome, attempts=1).values()
    assert record["status"] == "done"
    assert len(list((tmp_path / "damaged").iterdir())) == 2
    assert capsys.readouterr().err.count("it is set aside") == 2


def test_environments_whose_numbers_differ_are_told_apart():
    here = environment()
    other = here | {"jax": "0.99.1", "python": "3.99"}
    patched = here | {"jax": here["jax"] + ".post1"}
    assert len(kinds([here, patched])) == 1
    assert len(kinds([here, other])) == 2
    assert set(differences([here, other])) == {"jax", "python"}


def run_worker(tmp_path, cells, monkeypatch, outcome, attempts=2):
    monkeypatch.setattr(claimed_bundle, "run", outcome)
    options = WorkerOptions(name="w", attempts=attempts, claim_seconds=10.0)
    work(tmp_path, [alone(one) for one in cells], FakeSession(), options, lambda: False)
    return {record["seed"]: record for record in read_records(tmp_path, cells)}


def test_failed_cells_are_recorded_and_the_rest_go_on(tmp_path, monkeypatch):
    tries = []

    def outcome(session, spec, folder, hooks, start):
        tries.append(spec.seed)
        if spec.seed == 1:
            raise Diverged("the training loss is nan at step 3")
        if spec.seed == 2:
            raise MemoryError
        return result()

    cells = [cell(seed) for seed in range(4)]
    records = run_worker(tmp_path, cells, monkeypatch, outcome)
    assert [records[seed]["status"] for seed in range(4)] == ["done", "failed", "failed", "done"]
    assert "nan at step 3 (in each of 2 attempts)" in records[1]["reason"]
    assert "out of memory" in records[2]["reason"]
    assert tries == [0, 1, 1, 2, 3]
    write_tables(tmp_path, cells)
    lines = (tmp_path / "runs.csv").read_text().splitlines()
    assert len(lines) == 5
    assert sum(",failed," in line for line in lines) == 2
    assert not list((tmp_path / "claims").glob("*/*.json"))


def test_a_record_is_a_function_of_its_cell(tmp_path, monkeypatch):
    one = cell(0)
    run_worker(tmp_path / "a", [one], monkeypatch, lambda *a: result())
    slower = dataclasses.replace(result(), seconds={**result().seconds, "train": 99.0})
    run_worker(tmp_path / "b", [one], monkeypatch, lambda *a: slower)
    a, b = (record_path(tmp_path / name, one).read_bytes() for name in "ab")
    assert a == b
    timing = json.loads((tmp_path / "b" / "timing" / f"{one.id}.json").read_text())
    assert timing["train"] == 99.0
    assert timing["flops_per_s"] == pytest.approx(one.flops / 99.0)
    assert timing["product_flops_per_s"] == product_rate(one.run.model.compute_dtype) > 0


def test_known_entropy_replaces_the_noise_of_the_sample(tmp_path, monkeypatch):
    class Known(FakeSession):
        class corpus:
            entropy_nats = 0.5
            parts = ()

    scored = dataclasses.replace(result(), evaluation=Evaluation(0.93, 0.01, 1.4, excess=0.4))
    monkeypatch.setattr(claimed_bundle, "run", lambda *a: scored)
    one = cell(0)
    options = WorkerOptions(name="w", attempts=1, claim_seconds=10.0)
    work(tmp_path, [alone(one)], Known(), options, lambda: False)
    (record,) = read_records(tmp_path, [one])
    assert record["loss"] == pytest.approx(0.9)
    assert record["loss_plain"] == 0.93


def test_a_worker_goes_on_with_what_it_has_compiled(tmp_path, monkeypatch):
    trained = []

    def train(session, run, *rest):
        trained.append(run.seed)
        return result()

    wide = dataclasses.replace(MODEL, width=16)
    cells = [
        dataclasses.replace(one, run=dataclasses.replace(one.run, model=model, steps=steps))
        for one, model, steps in (
            (cell(0), MODEL, 10**6),
            (cell(1), wide, 10**5),
            (cell(2), MODEL, 10**5),
        )
    ]
    run_worker(tmp_path, cells, monkeypatch, train)
    assert trained == [0, 2, 1]


def test_a_worker_compiles_ahead_for_the_bundle_that_is_free(tmp_path, monkeypatch):
    asked, trained = [], []

    class Compiling(FakeSession):
        def compile_ahead(self, run, members):
            asked.append((run.seed, members, len(trained)))

    def train(session, run, *rest):
        trained.append(run.seed)
        time.sleep(0.05)  # the thread has its turn
        return result()

    monkeypatch.setattr(claimed_bundle, "run", train)
    cells = [cell(seed) for seed in range(4)]
    assert Claims(tmp_path, stale_seconds=10.0).take(cells[2].id)  # somebody else's
    options = WorkerOptions(
        name="w", attempts=1, claim_seconds=10.0, compile_ahead=True, wait_for_others=False
    )
    work(tmp_path, [alone(one) for one in cells], Compiling(), options, lambda: False)
    assert trained == [0, 1, 3]
    assert [entry[:2] for entry in asked] == [(1, 1), (3, 1)]
    assert all(behind <= place + 1 for place, (_, _, behind) in enumerate(asked))


def test_curves_carry_tokens_and_flops(tmp_path, monkeypatch):
    one = cell(0)
    run_worker(tmp_path, [one], monkeypatch, lambda *a: result())
    write_tables(tmp_path, [one])
    rows = [line.split(",") for line in (tmp_path / "curves.csv").read_text().splitlines()[1:]]
    assert [int(row[2]) for row in rows] == [5 * 64, 10 * 64]
    assert float(rows[-1][3]) == pytest.approx(one.flops)
