"""Large tables: read in parts, with columns by the thousand, curves without a pass for each run."""

import json
import tracemalloc

import numpy as np
import pytest

from gptjax.files import write_json
from gptjax.scaling import Table
from gptjax.scaling.approaches import envelope
from gptjax.scaling.tables import curves, dialects


def write(path, rows):
    names = list(rows[0])
    if path.suffix == ".csv":
        lines = [names, *([str(row[name]) for name in names] for row in rows)]
        path.write_text("\n".join(",".join(line) for line in lines) + "\n")
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


ROWS = [
    {"cell": f"run-{i}", "params": 1e6 + i, "odd": "late" if i == 17 else i, "loss": 3 - i / 100}
    for i in range(23)
]


@pytest.mark.parametrize("ending", ["csv", "jsonl"])
def test_parts_give_the_table_that_one_part_gives(tmp_path, monkeypatch, ending):
    path = tmp_path / f"runs.{ending}"
    write(path, ROWS)
    whole = Table.read(path)
    monkeypatch.setattr(dialects, "PART", 4)
    parts = Table.read(path)
    assert list(whole.columns) == list(parts.columns) == list(ROWS[0])
    for name in ROWS[0]:
        assert whole.text(name).tolist() == parts.text(name).tolist()
        assert whole.columns[name].dtype == parts.columns[name].dtype
    assert parts.text("odd").tolist() == [str(row["odd"]) for row in ROWS]
    assert parts.places.tolist() == whole.places.tolist()


def test_keys_that_come_late_are_empty_before(tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "PART", 2)
    path = tmp_path / "runs.jsonl"
    path.write_text('{"a": 1}\n{"a": 2}\n{"b": 3}\n\n{"c": "x", "a": 4}\n')
    table = Table.read(path)
    assert np.array_equal(table.numbers("a"), [1, 2, np.nan, 4], equal_nan=True)
    assert np.array_equal(table.numbers("b"), [np.nan, np.nan, 3, np.nan], equal_nan=True)
    assert table.text("c").tolist() == ["", "", "", "x"] and table.places.tolist() == [1, 2, 3, 5]


def test_decimal_commas_are_told_from_the_whole_file(tmp_path, monkeypatch):
    monkeypatch.setattr(dialects, "PART", 2)
    path = tmp_path / "runs.csv"
    path.write_text("params;loss\n1000;3\n2000;2\n3000;1,5\n")
    assert Table.read(path).numbers("loss").tolist() == [3.0, 2.0, 1.5]


def test_text_is_held_in_parts(tmp_path):
    """Twice the rows take as much again as their numbers do, and not as their text does."""
    peaks = []
    for count in (8_000, 24_000):
        path = tmp_path / f"{count}.csv"
        line = ",".join(["123.456789012345"] * 8)
        path.write_text("\n".join([",".join("abcdefgh"), *[line] * count]) + "\n")
        tracemalloc.start()
        table = Table.read(path)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        assert len(table) == count
    assert peaks[1] - peaks[0] < 16_000 * 8 * 30  # of eight bytes a cell; a text has 65


def test_a_header_may_be_long(tmp_path):
    names = [f"a rather long name {i}" for i in range(10_000)]
    path = tmp_path / "wide.csv"
    path.write_text("\n".join([",".join(names), ",".join(["1"] * 10_000)]))
    assert len(path.read_text().splitlines()[0]) > 131_072  # the csv module's longest cell
    assert list(Table.read(path).columns) == names


def test_winners_of_the_envelope_by_hand():
    losses = np.array([[1.0, 3.0, np.inf], [2.0, 2.0, 2.0], [3.0, 1.0, 1.0], [0.5, 9.0, np.inf]])
    params = np.array([1.0, 2.0, 3.0, 1.0])
    best, good = envelope._winners(losses, params, np.ones(4, bool))
    assert best.tolist() == [3, 2, 2] and good.tolist() == [False, False, False]
    best, good = envelope._winners(losses[[0, 2, 1]], params[[0, 2, 1]], np.ones(3, bool))
    assert best.tolist() == [0, 1, 1] and not good.any()
    inner = np.array([[3.0], [1.0], [2.0]])
    assert envelope._winners(inner, np.array([1.0, 2.0, 3.0]), np.ones(3, bool))[1].all()
    present = np.array([True, True, False])
    assert not envelope._winners(inner, np.array([1.0, 2.0, 3.0]), present)[1].any()


def test_a_run_whose_size_changes_is_no_curve():
    table = {"run": ["a", "b", "a", "b"], "N": [1.0, 2.0, 1.0, 2.0], "D": [1.0, 1.0, 2.0, 3.0]}
    found = curves.repeated_names(Table.from_columns(table), "N", "D")
    assert found is not None and (found.column, found.curves) == ("run", True)
    table["N"] = [1.0, 2.0, 1.0, 2.5]
    assert curves.repeated_names(Table.from_columns(table), "N", "D") is None


def test_a_large_file_of_json_is_written_in_pieces(tmp_path):
    rows = [{"cell": f"run-{i}", "loss": 3 - i / 1e5} for i in range(20_000)]
    content = {"rows": rows, "none": [float("nan")], "empty": {}}
    tracemalloc.start()
    write_json(tmp_path / "laws.json", content)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    text = (tmp_path / "laws.json").read_text()
    assert text == json.dumps({**content, "none": [None]}, indent=1) + "\n"
    assert peak < 9 * len(text)  # 15 times where all pieces are strings at once
