"""Output that is closed, cut short or knows few letters."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gptjax.main import main

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "chinchilla_sweep.py"
PLAN = [sys.executable, "-m", "gptjax.main", f"--config={EXPERIMENT}", "--config.job=plan"]
SMALL = ["--config.data.source=zipf-facts", "--config.data.zipf_facts.tokens=4096"]


@pytest.mark.parametrize("way", ["closed", "ascii"])
def test_output_that_is_closed_or_knows_few_letters(tmp_path, monkeypatch, way):
    """As a process finds it: None where its file was closed."""
    kept = io.BytesIO()
    output = None if way == "closed" else io.TextIOWrapper(kept, encoding="ascii")
    monkeypatch.setattr(sys, "stdout", output)
    assert main(["gptjax", *PLAN[3:], *SMALL, f"--config.data.cache_dir={tmp_path}"]) == 0
    if output is not None:
        print("α ≥ 1", file=output)  # in words
        output.flush()
        assert b"cells" in kept.getvalue()


@pytest.mark.parametrize(
    ("way", "status"),
    [
        pytest.param("closed", 0, marks=pytest.mark.slow),
        pytest.param("ascii", 0, marks=pytest.mark.slow),
        ("cut short", 1),
    ],
    ids=str,
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
