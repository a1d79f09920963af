"""Each job through `main`: a small sweep fitted, refitted, reported, joined, predicted from."""

import csv
import json
import math
from collections import Counter
from pathlib import Path

import pytest
from test_kill import CALM, arguments, finish_here, place, workers_here  # noqa: F401

from gptjax.main import main
from gptjax.report import html

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.fixture(scope="module", autouse=True)
def workers():
    """Workers of this process, and pages of one figure."""
    plots = html.choose_plots
    with workers_here(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(html, "choose_plots", lambda *given: plots(*given)[:1])
        yield


@pytest.fixture(scope="module")
def sweep(place):  # noqa: F811
    """A finished sweep of six cells and the flags that made it."""
    workdir = finish_here(place, place / "sweep", page=True, **CALM)
    return workdir, ["gptjax", *arguments(place, workdir, **CALM)[3:]]


def test_sweep_leaves_what_the_docs_say(sweep):
    workdir, _ = sweep
    for name in ("config.json", "runs.csv", "curves.csv", "timing.csv", "laws.json", "report.html"):
        assert (workdir / name).stat().st_size > 0
    assert len(list((workdir / "records").glob("*.json"))) == 6
    assert not list((workdir / "cells").glob("*"))
    with (workdir / "timing.csv").open() as file:
        timing = list(csv.DictReader(file))
    # Three trunks; the longer cell of each did only what the shorter one had left to do.
    assert sorted(Counter(row["bundle"] for row in timing).values()) == [2, 2, 2]
    assert "Where the time went" in (workdir / "report.html").read_text()
    laws = json.loads((workdir / "laws.json").read_text())
    parametric = laws["laws"]["chinchilla_parametric"]
    assert set(parametric["params"]) >= {"E", "A", "B", "alpha", "beta"}
    assert parametric["n_runs"] == 6
    assert laws["prediction"][0]["flops"] == pytest.approx(1.6e10, rel=0.01)


def test_done_sweep_shows_its_fit_again_without_fitting(sweep, capsys):
    workdir, flags = sweep
    kept = [workdir / "laws.json", *sorted((workdir / "records").iterdir())]
    before = [path.stat().st_mtime_ns for path in kept]
    assert main(flags) == 0
    assert "all 6 cells are done" in capsys.readouterr().out
    assert [path.stat().st_mtime_ns for path in kept] == before


def test_fit_again_with_another_setting(sweep, capsys, monkeypatch):
    monkeypatch.setattr("gptjax.report.build", lambda *_, **__: "not drawn")
    workdir, flags = sweep
    first = json.loads((workdir / "laws.json").read_text())
    assert main([*flags, "--config.job=fit", "--config.fit.params_convention=total"]) == 0
    second = json.loads((workdir / "laws.json").read_text())
    assert first["conventions"]["params"] != second["conventions"]["params"] == "total"
    assert main([*flags, "--config.job=fit"]) == 0
    assert json.loads((workdir / "laws.json").read_text()) == first


def test_the_best_cell_of_a_sweep_writes_text(sweep, tmp_path, capsys):
    """It is trained again, and kept for the next call."""
    workdir, _ = sweep
    records = [json.loads(path.read_text()) for path in (workdir / "records").glob("*.json")]
    best = min(records, key=lambda record: record["loss"])
    flags = [f"--config={EXPERIMENTS / 'sample.py'}", f"--workdir={tmp_path}"]
    own = {"model": workdir, "prompt": "a", "sampling.max_tokens": 3}
    command = ["gptjax", *flags, *(f"--config.sample.{name}={x}" for name, x in own.items())]
    assert main(command) == 0
    assert f"the best cell is {best['cell']} with {best['loss']:.4f}" in capsys.readouterr().out
    assert main(command) == 0
    assert "the best cell is" not in capsys.readouterr().out


def test_report_again(sweep):
    workdir, flags = sweep
    (workdir / "report.html").unlink()
    assert main([*flags, "--config.job=report"]) == 0
    assert "</html>" in (workdir / "report.html").read_text()


def test_work_on_a_finished_sweep_has_nothing_to_do(sweep):
    workdir, flags = sweep
    before = sorted(path.stat().st_mtime_ns for path in (workdir / "records").iterdir())
    assert main([*flags, "--config.job=work"]) == 0
    assert sorted(path.stat().st_mtime_ns for path in (workdir / "records").iterdir()) == before


def test_work_trains_what_is_missing(sweep, place):  # noqa: F811
    workdir, _ = sweep
    record = sorted((workdir / "records").glob("*.json"))[0]
    content = record.read_bytes()
    record.unlink()
    assert main(["gptjax", *arguments(place, workdir, **CALM)[3:], "--config.job=work"]) == 0
    assert record.read_bytes() == content


def test_predict_from_the_saved_law(sweep, capsys):
    workdir, _ = sweep
    path = EXPERIMENTS / "predict.py"
    laws = workdir / "laws.json"
    flags = [
        "gptjax",
        f"--config={path}",
        f"--config.predict.laws={laws}",
        "--config.predict.flops=1e11,1e12",
    ]
    assert main(flags) == 0
    shown = capsys.readouterr().out
    assert "1e+11" in shown and "1e+12" in shown and "chinchilla" in shown


def test_train_is_done_once_and_logs_every_step(place, tmp_path, capsys):  # noqa: F811
    path = EXPERIMENTS / "train_gpt2_small.py"
    settings = {
        "data.source": "text",
        "data.path": place / "text",
        "data.cache_dir": place / "cache",
        "data.heldout_fraction": 0.1,
        "model.depth": 1,
        "model.width": 16,
        "model.num_heads": 2,
        "model.seq_len": 32,
        "model.vocab_size": 0,
        "train.steps": 6,
        "train.tokens": 0,
        "train.batch_size": 4,
        "train.evaluations": 2,
        "train.keep_best": False,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = ["gptjax", f"--config={path}", f"--workdir={tmp_path / 'run'}", *flags]
    assert main(command) == 0
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    losses = {row["step"]: row["train/loss_nats"] for row in rows if "train/loss_nats" in row}
    assert sorted(losses) == [1, 2, 3, 4, 5, 6]
    assert sorted(row["step"] for row in rows if "eval/loss_nats" in row) == [3, 6]
    result = (tmp_path / "run" / "result.json").read_bytes()
    found = json.loads(result)
    assert f"({found['bytes_per_token']:.4g} bytes each)" in capsys.readouterr().out
    bits = found["loss"] / math.log(2) / found["bytes_per_token"]
    assert found["bits_per_byte"] == pytest.approx(bits)
    assert main(command) == 0
    assert "done" in capsys.readouterr().out
    assert (tmp_path / "run" / "result.json").read_bytes() == result
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == len(lines)
