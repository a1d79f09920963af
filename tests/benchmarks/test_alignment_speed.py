"""The benchmark of alignment at toy size, our side alone."""

import importlib.util
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "alignment.py"


@pytest.fixture(scope="module")
def alignment():
    spec = importlib.util.spec_from_file_location("benchmark_of_alignment", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("part", [pytest.param("our_step", marks=pytest.mark.slow), "our_rollout"])
def test_parts_are_timed(alignment, part):
    spent = getattr(alignment, part)(alignment.SIZES["toy"])()
    assert len(spent) == 2 and all(0.0 < seconds < 600.0 for seconds in spent)
