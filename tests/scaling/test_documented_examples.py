"""The examples of docs/scaling_laws.md run, in the order of the page."""

import dataclasses
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from gptjax.main import main
from gptjax.report import html
from gptjax.scaling import FitConfig, Table

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs" / "scaling_laws.md").read_text(encoding="utf-8")


QUICK = {"resamples": 20, "starts": 8}


@pytest.fixture
def quick_fits(monkeypatch):
    """Fewer resamples and starts where an example leaves them to their defaults."""
    names = [field.name for field in dataclasses.fields(FitConfig)]
    defaults = dict(zip(names, FitConfig.__init__.__defaults__, strict=True))
    monkeypatch.setattr(FitConfig.__init__, "__defaults__", (*(defaults | QUICK).values(),))
    assert dataclasses.asdict(FitConfig()) == dataclasses.asdict(FitConfig(**QUICK))


def test_every_python_example_runs(tmp_path, monkeypatch, capsys, quick_fits):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) >= 6
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"docs/scaling_laws.md, example {number}", "exec"), names)
    assert "chinchilla" in capsys.readouterr().out


def own_table():
    size, data = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = 1.7 + 400 * size**-0.34 + 1200 * data**-0.36
    return {"N": size, "D": data, "nats": loss * (1 + 0.003 * np.cos(size + data))}


def write_csv(columns, path):
    rows = [f"{n},{d},{x}" for n, d, x in zip(*columns.values(), strict=True)]
    path.write_text("\n".join([",".join(columns), *rows]) + "\n")


def test_the_command_for_ones_own_table_runs(tmp_path, monkeypatch, capsys):
    """With the first of its figures."""
    monkeypatch.chdir(tmp_path)
    plots = html.choose_plots
    monkeypatch.setattr(html, "choose_plots", lambda *given: plots(*given)[:1])
    write_csv(own_table(), tmp_path / "runs.csv")
    command = re.search(
        r"python -m gptjax\.main (--config=experiments/fit_table\.py.*?)\n\n", PAGE, re.S
    )
    words = shlex.split(command[1].replace("\\\n", " "))
    words[0] = words[0].replace("experiments", str(REPO / "experiments"))
    quick = [f"--config.fit.{name}={value}" for name, value in QUICK.items()]
    assert main(["gptjax", *words, *quick]) == 0
    folder = tmp_path / "runs" / "fit_table"
    assert (folder / "laws.json").is_file() and (folder / "report.html").is_file()
    assert "L(N, D)" in capsys.readouterr().out


def test_a_parquet_file_is_the_same_table(tmp_path):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    write_csv(own_table(), tmp_path / "runs.csv")
    parquet.write_table(arrow.table(own_table()), tmp_path / "runs.parquet")
    tables = [Table.read(tmp_path / f"runs.{ending}") for ending in ("csv", "parquet")]
    for name in own_table():
        np.testing.assert_array_equal(*(table.numbers(name) for table in tables))
