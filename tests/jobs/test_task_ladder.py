"""Scores of cells on tasks: in records and runs.csv, and the ladder's largest size forecast."""

import csv
import dataclasses
import json
import types
from pathlib import Path

import compiled_model
import jax
import numpy as np
import pytest

from gptjax import config as configs
from gptjax import experiment
from gptjax.engines import cell_scores, cells, workdir
from gptjax.errors import UserError
from gptjax.main import main
from gptjax.scaling.tasks import read_scores
from gptjax.sweeps import records

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "task_ladder.py"


def made(tmp_path, **sweep):
    values = experiment.load(str(EXPERIMENT))
    values["job"] = "sweep"
    values["data"].update(source="zipf-facts", cache_dir=str(tmp_path / "cache"))
    values["data"]["zipf_facts"].update(tokens=4096, heldout_tokens=1024, entities=200)
    values["model"]["seq_len"] = 40
    values["sweep"].update(widths=(8, 16), tokens=(4096.0, 16384.0), tasks=("facts",), **sweep)
    values["evaluate"].update(count=12)
    return configs.make_config(values)


def test_a_cell_is_scored_on_the_tasks_of_its_sweep(tmp_path):
    """The facts are those of the sweep's own language, and no cell is stacked."""
    config = made(tmp_path, stack=2)
    corpus = configs.load_corpus(config)
    plan = cells.make_plan(config, cells.make_cells(config, corpus))
    assert not any(bundle.stacked for bundle in plan.bundles)
    run = plan.cells[0].run
    params = compiled_model.init(run.model, jax.random.key(0))
    score = cell_scores.scorer(config)
    found = score(types.SimpleNamespace(corpus=corpus), run, params)["scores"]
    assert set(found) == {"facts_acc", "facts_acc_norm", "facts_bpb"}
    assert 0 <= found["facts_acc"] <= 1 and found["facts_bpb"] > 1


def test_worker_processes_score_by_the_settings_of_the_command(tmp_path):
    """Sections of single jobs are no part of config.json: they were lost on the way to workers."""
    config, folder = made(tmp_path, quantize_bits=(4,)), tmp_path / "sweep"
    workdir.open_workdir(config, folder, fingerprint="tokens")
    found = workdir.saved_config(folder)
    assert found.own["evaluate"] == config.own["evaluate"] and found.own["evaluate"].count == 12
    assert found.own["quantize"] == config.own["quantize"]
    (folder / "records").mkdir()
    (folder / "records" / "one.json").write_text("{}")
    own = {**config.own, "evaluate": dataclasses.replace(config.own["evaluate"], count=13)}
    other = dataclasses.replace(config, own=own)
    with pytest.raises(UserError, match=r"was made with evaluate\.count=12, not 13"):
        workdir.open_workdir(other, folder, fingerprint="tokens")
    (folder / workdir.SCORING).unlink()
    with pytest.raises(UserError, match=r"was made with evaluate\.count=150, not 12"):
        workdir.open_workdir(config, folder, fingerprint="tokens")


def test_unknown_tasks_are_refused_before_anything_is_trained(tmp_path):
    values = experiment.load(str(EXPERIMENT))
    values["sweep"].update(tasks=("facs",))
    with pytest.raises(UserError, match="did you mean facts"):
        configs.make_config(values)
    values["sweep"].update(tasks=())
    with pytest.raises(UserError, match="nothing to forecast"):
        configs.make_config(values)
    values["sweep"].update(tasks=("facts",), widths=(8, 12, 16))
    with pytest.raises(UserError, match="has 3 sizes, and the largest is forecast from 3 others"):
        configs.make_config(values)


def test_runs_have_a_column_for_each_score(tmp_path):
    rows = [
        dict.fromkeys(records.RUN_COLUMNS, 1.0)
        | {"status": "done", "trunk": "", "curve": {"step": [], "loss": []}, "cell": f"c{n}"}
        | {"batch_size": 1, "seq_len": 1, "tokens": 10.0**n, "flops": 1.0}
        | {"params_non_embedding_with_head": 1e3 * n, "loss": 2.0}
        | {"scores": {"facts_acc": 0.1 * n, "facts_bpb": 2.0}}
        for n in range(1, 9)
    ]
    failed = {**rows[0], "cell": "bad", "status": "failed"}
    del failed["scores"]
    (tmp_path / "timing").mkdir()
    records.write_tables(tmp_path, [], [*rows, failed])
    with (tmp_path / "runs.csv").open() as file:
        found = list(csv.DictReader(file))
    assert [row["facts_acc"] for row in found][-2:] == ["0.8", ""]
    scores = read_scores(tmp_path / "runs.csv")
    assert len(scores) == 8 and scores.tasks == ("facts",) and np.all(scores.final)
    np.testing.assert_allclose(scores.params, 1e3 * np.arange(1, 9))


@pytest.mark.slow
def test_a_ladder_is_scored_and_its_largest_size_forecast(tmp_path):
    """Four sizes on three budgets: pytest -m slow tests/jobs/test_task_ladder.py."""
    flags = {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 65536,
        "data.zipf_facts.heldout_tokens": 4096,
        "data.cache_dir": tmp_path / "cache",
        "model.seq_len": 40,
        "sweep.widths": "(8,12,16,20)",
        "sweep.tokens": "(16384,32768,65536)",
        "sweep.tasks": "facts",
        "evaluate.count": 40,
        "fit.resamples": 10,
    }
    flags = [f"--config.{name}={value}" for name, value in flags.items()]
    workdir = tmp_path / "sweep"
    assert main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={workdir}", *flags]) == 0
    measured = json.loads((workdir / "forecast.json").read_text())["measured"]
    assert len(measured) == 3 and {row["task"] for row in measured} == {"facts"}
