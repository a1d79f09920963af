"""A source that only the experiment file knows: worker processes know it too."""

import json
import subprocess
import sys

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
    config.sweep.widths = (8, 16)
    config.sweep.tokens = (4e3,)
    config.sweep.head_width = 8
    config.sweep.rule = "fixed"
    config.train.batch_size = 8
    config.sweep.workers = 1
    return config
'''


def test_a_sweep_trains_on_a_source_from_outside(tmp_path):
    (tmp_path / "counting.py").write_text(EXPERIMENT)
    command = [
        *(sys.executable, "-m", "gptjax.main", "--config=counting.py:up"),
        *("--workdir=run", f"--config.data.cache_dir={tmp_path / 'cache'}"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=400)
    records = [json.loads(path.read_text()) for path in (tmp_path / "run/records").glob("*.json")]
    assert len(records) == 2, done.stderr
    assert all(record["status"] == "done" and record["loss"] < 6 for record in records), records
    assert "Traceback" not in done.stderr
