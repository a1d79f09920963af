"""Seconds of a step that several commands worked on."""

import pytest

from gptjax.errors import UserError
from gptjax.stages import alignment_steps


def test_seconds_of_a_stopped_step_are_added(tmp_path, monkeypatch):
    now = iter([0.0, 5.0, 100.0, 103.0, 200.0, 207.0, 300.0, 309.0])
    monkeypatch.setattr(alignment_steps.time, "perf_counter", lambda: next(now))
    place = tmp_path / "policy"
    with pytest.raises(UserError, match="policy was stopped; the same command continues"):
        alignment_steps.timed(place, lambda: 75)
    with pytest.raises(KeyError):
        alignment_steps.timed(place, lambda: {}["no such step"])
    assert alignment_steps.timed(place, lambda: 0) == 15
    assert alignment_steps.timed(place, lambda: None) == 15  # it had ended: nothing is added
