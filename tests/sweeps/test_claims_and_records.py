"""Claims between workers, failures that do not stop a sweep, records that hold no times."""

import dataclasses
import json
import os
import subprocess
import sys
import time

import pytest

from gptjax.engines import worker
from gptjax.engines.worker import WorkerOptions, work
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.sweeps import (
    Bundle,
    Cell,
    Claims,
    read_records,
    record_path,
    write_tables,
)
from gptjax.train import Diverged, Evaluation, RunResult, RunSpec

MODEL = ModelConfig(depth=1, width=8, num_heads=1, seq_len=16, vocab_size=257)


class FakeSession:
    class corpus:
        entropy_nats = None


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


def test_a_dead_process_loses_its_claim_at_once(tmp_path):
    code = (
        "import sys; from pathlib import Path; from gptjax.sweeps.claims import Claims; "
        "print(Claims(Path(sys.argv[1]), stale_seconds=1e6).take('x'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "True"
    assert Claims(tmp_path, stale_seconds=1e6).take("x")


def test_another_hosts_claim_holds_while_its_heart_beats(tmp_path):
    claims = Claims(tmp_path, stale_seconds=30.0)
    path = tmp_path / "claims" / "x.json"
    path.write_text(json.dumps({"token": "t", "host": "elsewhere", "pid": 1, "started": "1"}))
    assert not claims.take("x")
    old = time.time() - 60
    os.utime(path, (old, old))
    assert claims.take("x")


def test_heartbeat_touches_the_claim(tmp_path):
    claims = Claims(tmp_path, stale_seconds=0.2)
    claims.take("x")
    path = tmp_path / "claims" / "x.json"
    os.utime(path, (0, 0))
    with claims.heartbeat("x"):
        time.sleep(0.3)
    assert path.stat().st_mtime > 1e9


def run_worker(tmp_path, cells, monkeypatch, outcome, attempts=2):
    monkeypatch.setattr(worker, "run", outcome)
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
    assert not list((tmp_path / "claims").glob("*.json"))


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


def test_known_entropy_replaces_the_noise_of_the_sample(tmp_path, monkeypatch):
    class Known(FakeSession):
        class corpus:
            entropy_nats = 0.5

    scored = dataclasses.replace(result(), evaluation=Evaluation(0.93, 0.01, 1.4, excess=0.4))
    monkeypatch.setattr(worker, "run", lambda *a: scored)
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

    monkeypatch.setattr(worker, "run", train)
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
