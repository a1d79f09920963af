"""The notebook: it runs from its first cell to its last and finds the law of its own table."""

import json
from pathlib import Path

import matplotlib
import pytest

PAGE = Path(__file__).parents[1] / "notebooks" / "fit_a_law.ipynb"
CELLS = json.loads(PAGE.read_text(encoding="utf-8"))["cells"]
SOURCES = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_it_is_kept_without_outputs_and_compiles():
    for number, source in enumerate(SOURCES):
        compile(source, f"{PAGE.name}, code cell {number}", "exec")
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)


@pytest.mark.slow
def test_it_fits_and_draws(capsys):
    matplotlib.use("Agg")
    names: dict = {}
    for number, source in enumerate(SOURCES):
        exec(compile(source, f"{PAGE.name}, code cell {number}", "exec"), names)
    fitted = names["law"].params
    for parameter, low, high in (("alpha", 0.3, 0.38), ("beta", 0.32, 0.4), ("E", 1.6, 1.8)):
        assert low < fitted[parameter].value < high
    assert len(names["ax"].lines) == 2 * len(names["budgets"])
    assert "70 B parameters" in capsys.readouterr().out
