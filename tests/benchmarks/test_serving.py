"""The benchmark of serving: its arithmetic by hand, and all of it at toy size."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "serving.py"


@pytest.fixture(scope="module")
def serving():
    spec = importlib.util.spec_from_file_location("benchmark_of_serving", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_times_of_an_answer_by_hand(serving):
    """It comes at 1; one token at 3, two more at 4 and one at 5.5."""
    one = serving.Served(1.0, [(3.0, 1), (4.0, 3), (5.5, 4)])
    assert (one.first, one.wait, one.gaps) == (2.0, 4.5, [0.5, 0.5, 1.5])
    request = serving.Request(1.0, (1,), 4)
    found = serving.summary([request], [one])
    assert found["tokens_per_s"] == 4 / 4.5 and found["median_wait"] == 4.5
    assert found["between"][0] == 0.5 and found["first"] == [2.0, 2.0, 2.0]


def test_requests_have_lengths_of_their_own(serving):
    size = serving.SIZES["toy"]()
    requests = serving.requests_of(size, 3.0)
    assert requests == serving.requests_of(size, 3.0) != serving.requests_of(size, 3.0, seed=1)
    assert len({one.tokens for one in requests}) > 4
    assert all(size.shortest <= one.tokens <= size.longest for one in requests)


@pytest.mark.slow
def test_all_of_it_at_toy_size():
    """By its command, in a process of its own, as it starts threads and a server."""
    pytest.importorskip("uvicorn")
    command = [sys.executable, str(SCRIPT), "--size=toy"]
    said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    # Keys and values of one layer, 16 wide, float32.
    assert "caches: 128 bytes a token, by the formula 128" in said
    assert "times the throughput" in said and "through the server" in said
