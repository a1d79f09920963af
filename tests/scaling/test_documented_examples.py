"""The examples of docs/scaling_laws.md run, in the order of the page."""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from gptjax.main import main

REPO = Path(__file__).parents[2]
PAGE = (REPO / "docs" / "scaling_laws.md").read_text(encoding="utf-8")


def test_every_python_example_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)
    assert len(blocks) >= 6
    for number, block in enumerate(blocks, start=1):
        exec(compile(block, f"docs/scaling_laws.md, example {number}", "exec"), names)
    assert "chinchilla" in capsys.readouterr().out


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_the_command_for_ones_own_table_runs(tmp_path, monkeypatch, capsys, ending):
    monkeypatch.chdir(tmp_path)
    size, data = (
        x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 6), np.geomspace(1e9, 1e11, 6))
    )
    loss = 1.7 + 400 * size**-0.34 + 1200 * data**-0.36
    columns = {"N": size, "D": data, "nats": loss * (1 + 0.003 * np.cos(size + data))}
    if ending == "csv":
        rows = [",".join(columns)] + [
            f"{n},{d},{x}" for n, d, x in zip(*columns.values(), strict=True)
        ]
        (tmp_path / "runs.csv").write_text("\n".join(rows) + "\n")
    else:
        arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        parquet.write_table(arrow.table(columns), tmp_path / "runs.parquet")
    command = re.search(
        r"python -m gptjax\.main (--config=experiments/fit_table\.py.*?)\n\n", PAGE, re.S
    )
    words = shlex.split(command[1].replace("\\\n", " "))
    words[0] = words[0].replace("experiments", str(REPO / "experiments"))
    words = [word.replace("runs.csv", f"runs.{ending}") for word in words]
    assert main(["gptjax", *words, "--config.fit.resamples=50"]) == 0
    folder = tmp_path / "runs" / "fit_table"
    assert (folder / "laws.json").is_file() and (folder / "report.html").is_file()
    assert "L(N, D)" in capsys.readouterr().out
