"""Output that is closed, cut short or knows few letters."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "chinchilla_sweep.py"
PLAN = [sys.executable, "-m", "gptjax.main", f"--config={EXPERIMENT}", "--config.job=plan"]
SMALL = ["--config.data.source=zipf-facts", "--config.data.zipf_facts.tokens=4096"]


@pytest.mark.parametrize(
    ("way", "status"), [("closed", 0), ("ascii", 0), ("cut short", 1)], ids=lambda one: str(one)
)
def test_output_is_no_reason_for_a_traceback(tmp_path, way, status):
    line = " ".join([*PLAN, *SMALL, f"--config.data.cache_dir={tmp_path}"])
    line += {"closed": " >&-", "ascii": " >/dev/null", "cut short": " | true"}[way]
    line += "; exit ${PIPESTATUS[0]}" if way == "cut short" else ""
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"} if way == "ascii" else os.environ
    done = subprocess.run(
        ["bash", "-c", line], env=environment, stderr=subprocess.PIPE, text=True, timeout=120
    )
    assert "Traceback" not in done.stderr
    assert done.returncode in (status, 141)
