"""A source that only the experiment file knows: worker processes know it too."""

import json
import subprocess
import sys
import types

import pytest

from gptjax.data import sources
from gptjax.engines import local, process
from gptjax.main import main

EXPERIMENT = '''
"""A sweep over a source of its own."""

from gptjax.config import default_config
from gptjax.data import sources
from gptjax.data.sources import Documents, Source


def count_up(own, config, seq_len):
    numbers = [f"{number} follows {number - 1}. ".encode() for number in range(1, 2000)]
    return Documents(stamp="counting", read=lambda: iter(numbers), field="data.source")


def get_config(text):
    assert text == "up"
    sources.register(Source("counting-up", count_up))
    config = default_config()
    config.data.source = "counting-up"
    config.data.heldout_fraction = 0.2
    config.model.depth = 1
    config.model.seq_len = 16
    config.sweep.plan = "grid"
    config.sweep.widths = (8,)
    config.sweep.tokens = (4e3,)
    config.sweep.head_width = 8
    config.sweep.rule = "fixed"
    config.train.batch_size = 8
    config.sweep.workers = 1
    return config
'''


class Here:
    """A worker's process whose command runs in this one, which has forgotten the source."""

    pid, status = 0, 0

    def __init__(self, command, **_):
        forget()
        with pytest.MonkeyPatch.context() as patch:
            for name in ("pin", "die_with_parent", "one_device_a_process"):
                patch.setattr(process, name, lambda *_: None)
            patch.setattr(sys, "argv", command[2:])
            self.status = process._process()

    def poll(self):
        return self.status


def forget():
    for name in ("counting-up", "counting_up"):
        sources.SOURCES.pop(name, None)


@pytest.mark.parametrize(
    "real", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "process"]
)
def test_a_sweep_trains_on_a_source_from_outside(real, tmp_path, monkeypatch, capfd):
    """One cell by a worker with the command of a process of its own; nothing is fitted."""
    if not real:
        fake = types.SimpleNamespace(**{**vars(subprocess), "Popen": Here})
        monkeypatch.setattr(local, "subprocess", fake)
    (tmp_path / "counting.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    for check in ("gptjax.stages.sweep.check_fit", "gptjax.sweeps.plan._check_identifiable"):
        monkeypatch.setattr(check, lambda *_: None)
    monkeypatch.setattr("gptjax.stages.fit.fit_and_report", lambda *_, **__: None)
    cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
    try:
        main(["gptjax", "--config=counting.py:up", "--workdir=run", cache])
    finally:
        forget()
    records = [json.loads(path.read_text()) for path in (tmp_path / "run/records").glob("*.json")]
    told = capfd.readouterr().err
    assert len(records) == 1, told
    assert all(record["status"] == "done" and record["loss"] < 6 for record in records), records
    assert "Traceback" not in told
