"""A source that only the experiment file knows: worker processes know it too."""

import json

from gptjax.data import sources
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


def test_a_sweep_trains_on_a_source_from_outside(tmp_path, monkeypatch, capfd):
    """Planned in this process; the worker is one of its own. One cell, and nothing is fitted."""
    (tmp_path / "counting.py").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    for check in ("gptjax.stages.sweep.check_fit", "gptjax.sweeps.plan._check_identifiable"):
        monkeypatch.setattr(check, lambda *_: None)
    monkeypatch.setattr("gptjax.stages.fit.fit_and_report", lambda *_, **__: None)
    cache = f"--config.data.cache_dir={tmp_path / 'cache'}"
    try:
        main(["gptjax", "--config=counting.py:up", "--workdir=run", cache])
    finally:
        for name in ("counting-up", "counting_up"):
            sources.SOURCES.pop(name, None)
    records = [json.loads(path.read_text()) for path in (tmp_path / "run/records").glob("*.json")]
    told = capfd.readouterr().err
    assert len(records) == 1, told
    assert all(record["status"] == "done" and record["loss"] < 6 for record in records), records
    assert "Traceback" not in told
