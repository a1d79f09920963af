"""The comparison of benchmarks/sweep.py: its arithmetic, and a tiny one of it in whole."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

REPO = Path(__file__).parents[2]
SCRIPT = REPO / "benchmarks" / "sweep.py"


@pytest.fixture(scope="module")
def sweep():
    spec = importlib.util.spec_from_file_location("benchmark_of_sweeps", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def cell(flops_of_a_step, steps):
    model = SimpleNamespace(width=8)
    run = SimpleNamespace(steps=steps, model=model, batch_size=4)
    return SimpleNamespace(run=run, flops=flops_of_a_step * steps)


def test_total_by_hand(sweep):
    """Shapes of 1, 2 and 3 FLOPs a step, the middle one interpolated."""
    cells = [cell(1.0, 10), cell(2.0, 100), cell(2.0, 50), cell(3.0, 20)]
    costs = {
        sweep.shape_of(cells[0]): sweep.Cost(fixed=5.0, compile=1.0, step=0.1, evaluate=0.5),
        sweep.shape_of(cells[3]): sweep.Cost(fixed=7.0, compile=3.0, step=0.3, evaluate=0.5),
    }
    steps = 10 * 0.1 + 150 * 0.2 + 20 * 0.3
    compiling, evaluating = 1.0 + 2.0 + 3.0, 4 * 0.5
    once = sweep.total(cells, costs, each_starts=False)
    assert once == pytest.approx(6.0 + compiling + steps + evaluating)
    apart = sweep.total(cells, costs, each_starts=True)
    assert apart == pytest.approx(4 * 6.0 + compiling + steps + evaluating)
    two = sweep.total(cells, costs, each_starts=False, at_once=2)
    assert two == pytest.approx(6.0 + (compiling + steps + evaluating) / 2)


def test_the_sample_spans_the_shapes(sweep):
    cells = [cell(float(flops), 10) for flops in (5, 1, 2, 2, 4, 3)]
    assert [sweep.shape_of(one)[0] for one in sweep.sample_of(cells, 3)] == [1.0, 3.0, 5.0]
    assert len(sweep.sample_of(cells, 99)) == 5


@pytest.mark.slow
def test_a_tiny_one(tmp_path):
    pytest.importorskip("transformers", reason="pip install 'gptjax[bench]'")
    pytest.importorskip("torch", reason="pip install 'gptjax[bench]'")
    out = tmp_path / "found.json"
    settings = {
        "sweep.budgets": "1e10,2e10",
        "sweep.widths": "16,24,32",
        "fit.resamples": 10,
        "fit.approaches": "isoflop",
        "report.formats": "png",
        "report.dpi": 50,
    }
    command = [sys.executable, SCRIPT, "--sample=1", f"--out={out}"]
    command += [f"--config.{name}={value}" for name, value in settings.items()]
    subprocess.run(command, check=True, cwd=REPO, timeout=1500)
    found = json.loads(out.read_text())
    ways = (
        "sweep",
        "one by one",
        "eager",
        "eager, two processes",
        "compiled",
        "compiled, two processes",
    )
    assert min(found[name] for name in ways) > 0
    losses = found["losses"]
    assert losses["one by one"] == pytest.approx(losses["sweep"], abs=0.02)
    assert losses["PyTorch"] == pytest.approx(losses["one by one, as GPT-2"], abs=0.05)
