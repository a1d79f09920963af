"""The metrics file: lines by step, dropped from the end."""

import json

import pytest

from gptjax.tracking import MetricsFile, metrics


def steps(path):
    return [json.loads(line)["step"] for line in path.read_text().splitlines()]


@pytest.mark.parametrize("block", [7, 64, 1 << 16])
@pytest.mark.parametrize("after, kept", [(0, []), (3, [1, 2, 3]), (7, [*range(1, 8)]), (99, 99)])
def test_later_steps_are_dropped(tmp_path, monkeypatch, block, after, kept):
    monkeypatch.setattr(metrics, "BLOCK", block)
    path = tmp_path / "metrics.jsonl"
    file = MetricsFile(path)
    for step in range(1, 11):
        file.write(step, {"loss": 1 / step})
    file.close()
    with open(path, "a") as cut:
        cut.write('{"step": 11, "lo')
    file.drop_after(after)
    assert steps(path) == (kept if kept != 99 else [*range(1, 11)])
    file.write(after + 1, {"loss": 0.5})
    file.close()
    assert steps(path)[-1] == after + 1


def test_a_resume_does_not_read_the_whole_file(tmp_path, monkeypatch):
    """100,000 steps are not read to drop the last: only the end is."""
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(f'{{"step": {step}, "loss": 2.5}}\n' for step in range(100_000)))
    read = []
    monkeypatch.setattr(metrics.json, "loads", lambda line: read.append(line) or eval(line))
    MetricsFile(path).drop_after(99_990)
    monkeypatch.undo()
    assert len(read) == 10 and steps(path)[-1] == 99_990


def test_a_line_is_in_the_file_when_it_was_written(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.write(1, {"loss": 2.0})
    assert steps(tmp_path / "metrics.jsonl") == [1]
    file.close()
    assert MetricsFile(tmp_path / "none.jsonl").drop_after(3) is None
