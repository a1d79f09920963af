"""Mixtures of sources through the command: job=train and job=sweep, their records and refusals."""

import csv
import json

import pytest
from test_kill import (  # noqa: F401
    CALM,
    arguments,
    finish_here,
    one_width_is_enough,
    place,
    workers_here,
)

from gptjax.main import main


def sources(place):  # noqa: F811
    """Two sources of unequal size; the first is read more than once."""
    parts = {"small": "text/1*.txt", "large": "text/[2-5]*.txt"}
    return str(
        tuple(
            f"{label}: source=text path={place}/{glob} heldout_fraction=0.3"
            for label, glob in parts.items()
        )
    )


@pytest.fixture(scope="module", autouse=True)
def workers():
    with workers_here():
        yield


@pytest.fixture
def flags(place):  # noqa: F811
    def make(workdir, **settings):
        settings = {
            "job": "train",
            "data.sources": sources(place),
            "data.weights": "(0.75,0.25,0.5,0.5)",
            "data.phases": "(0.5,)",
            "data.repeats": "(9,1)",
            "train.steps": 8,
            "train.evaluations": 2,
            "model.width": 16,
            **settings,
        }
        return ["gptjax", *arguments(place, workdir, **settings)[3:]]

    return make


def test_a_run_tells_its_sources_in_every_evaluation_and_goes_on(flags, tmp_path):
    workdir = tmp_path / "run"
    assert main(flags(workdir)) == 0
    result = json.loads((workdir / "result.json").read_text())
    found = result["sources"]
    assert found["weight_small"] == pytest.approx(0.625)
    assert result["loss"] == pytest.approx((found["loss_small"] + found["loss_large"]) / 2, rel=0.1)
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    told = [line for line in lines if "eval/loss_nats_small" in line]
    assert [line["step"] for line in told] == [4, 8]
    assert told[-1]["eval/loss_nats_large"] == pytest.approx(found["loss_large"])
    assert main(flags(workdir)) == 0  # the same command: it is done


def test_a_small_source_needs_leave_to_repeat(flags, tmp_path, capsys):
    assert main(flags(tmp_path, **{"data.repeats": "1", "train.steps": 4000})) == 2
    said = capsys.readouterr().err
    assert "'small' has" in said and "more than data.repeats=1" in said


@one_width_is_enough()
def test_a_sweep_has_columns_by_source(place, tmp_path, capsys):  # noqa: F811
    mixed = {
        "sweep.widths": "(8,)",
        "data.sources": sources(place),
        "data.weights": "(0.25,0.75)",
        "data.repeats": 99,
        "data.targets": "(0,1)",
    }
    finish_here(place, tmp_path / "sweep", **CALM, **mixed)
    with (tmp_path / "sweep" / "runs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for row in rows:
        assert float(row["weight_small"]) == pytest.approx(0.25)
        assert float(row["loss"]) == float(row["loss_large"]) != float(row["loss_small"])
        assert float(row["repeats_small"]) > float(row["repeats_large"]) > 0
    record = next((tmp_path / "sweep" / "records").glob("*.json"))
    assert json.loads(record.read_text())["run"]["data.weights"] == [0.25, 0.75]
