"""Wrong tables end in one clear sentence."""

import math

import numpy as np
import pytest
from known_runs import runs_table

from gptjax import scaling
from gptjax.errors import UserError


def changed(column, row, value):
    table = runs_table()
    values = list(table[column])
    values[row] = value
    return {**table, column: values}


BAD = {
    "one row": ({n: v[:1] for n, v in runs_table().items()}, "at least 6 runs"),
    "no rows": ({n: v[:0] for n, v in runs_table().items()}, "no rows"),
    "one size": ({**runs_table(), "params": np.full(35, 1e8)}, "every run has params=1e"),
    "constant loss": ({**runs_table(), "loss": np.full(35, 2.5)}, "constant loss"),
    "zero": (changed("loss", 3, 0.0), "row 4: loss=0 must be above zero"),
    "negative": (changed("tokens", 0, -5.0), "row 1: tokens=-5 must be above zero"),
    "infinite": (changed("params", 1, math.inf), "row 2: params=inf is not finite"),
    "nan": (changed("loss", 2, math.nan), "row 3: loss is missing or NaN"),
    "huge": (changed("params", 2, 1e30), r"params=1e\+30 is beyond"),
    "huge loss": (changed("loss", 2, 1e30), r"loss=1e\+30 is beyond"),
    "text": (changed("loss", 5, "about 3"), "row 6: loss='about 3' is not a number"),
    "missing column": (
        {n: v for n, v in runs_table().items() if n != "loss"} | {"losss": np.ones(35)},
        "no column loss.*did you mean losss",
    ),
    "all failed": (runs_table() | {"status": ["failed"] * 35}, "every run of table failed"),
    "all the same run": (
        {n: [v[0]] * 35 for n, v in runs_table().items()},
        "at least 6 runs and the table has 1",
    ),
    "unequal columns": ({"params": [1.0], "tokens": [1.0, 2.0]}, "different lengths"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_table_is_one_sentence(name):
    table, sentence = BAD[name]
    with pytest.raises(UserError, match=sentence) as caught:
        scaling.fit(table, resamples=0, starts=4)
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        scaling.fit_laws(table)


FILES = {
    "empty": (b"", "no rows"),
    "header only": (b"params,tokens,loss\n", "no rows"),
    "ragged": (b"params,tokens,loss\n1,2\n", "line 2 has 2 cells where the header has 3"),
    "not text": (b"\x80\x81,\xff\n1,2\n", "not UTF-8"),
    "two columns of one name": (b"loss,loss\n1,2\n", "two columns named loss"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_bad_file_is_one_sentence(tmp_path, name):
    content, sentence = FILES[name]
    path = tmp_path / "runs.csv"
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence):
        scaling.fit(path)


def test_a_missing_file_and_an_unknown_form_are_one_sentence(tmp_path):
    with pytest.raises(UserError, match="is not a file"):
        scaling.fit(tmp_path / "none.csv")
    with pytest.raises(UserError, match="did you mean chinchilla"):
        scaling.fit(runs_table(), form="chinchila")
    with pytest.raises(UserError, match="not a setting"):
        scaling.fit(runs_table(), start=3)


def test_duplicated_runs_are_left_out_and_said_so():
    table = {n: [*v, *v[:2]] for n, v in runs_table(noise=0.001).items()}
    law = scaling.fit(table, resamples=0, starts=8)
    assert len(law.runs) == 35
    assert [entry.cell for entry in law.left_out] == ["cell-0", "cell-1"]
    assert any("duplicated" in warning for warning in law.warnings)


def test_extreme_but_possible_scales_are_fitted():
    table = runs_table()
    scaled = {n: table[n] * 1e6 for n in ("params", "tokens")}
    scaled |= {"loss": table["loss"], "flops": table["flops"] * 1e12}
    law = scaling.fit(scaled, starts=8, resamples=0)
    assert law.values["alpha"] == pytest.approx(0.34, rel=1e-6)


def test_csv_and_parquet_keep_every_digit(tmp_path):
    table = scaling.Table.from_columns(runs_table(noise=0.01))
    table.to_csv(tmp_path / "runs.csv")
    again = scaling.Table.read(tmp_path / "runs.csv")
    assert again.numbers("loss").tolist() == table.numbers("loss").tolist()
    assert again.text("cell").tolist() == table.text("cell").tolist()
    parquet = pytest.importorskip("pyarrow.parquet")
    arrow = pytest.importorskip("pyarrow")
    columns = {name: list(column) for name, column in table.columns.items()}
    parquet.write_table(arrow.table(columns), tmp_path / "runs.parquet")
    back = scaling.Table.read(tmp_path / "runs.parquet")
    assert back.numbers("loss").tolist() == table.numbers("loss").tolist()


def test_columns_of_any_name_and_a_selection_of_rows(tmp_path):
    source = runs_table()
    table = {
        "n": source["params"],
        "d": source["tokens"],
        "nats": source["loss"],
        "data": ["a", "b"] * 17 + ["a"],
    }
    law = scaling.fit(
        table,
        column_params="n",
        column_tokens="d",
        column_loss="nats",
        where="data=b",
        resamples=0,
    )
    assert len(law.runs) == 17
    assert law.values["E"] == pytest.approx(1.7, rel=1e-5)
    with pytest.raises(UserError, match="matches no row"):
        scaling.fit(table, column_params="n", where="data=c")


def test_when_no_law_can_be_fitted_each_approach_gives_its_reason():
    size = np.geomspace(1e6, 1e9, 12)
    table = {"params": size, "tokens": 20 * size, "loss": 2 + size**-0.3}
    with pytest.raises(UserError) as caught:
        scaling.fit_laws(table, None, scaling.FitConfig(forms=("moe",), starts=8, resamples=0))
    sentence = str(caught.value)
    assert sentence.startswith("no law can be fitted: chinchilla_parametric: tokens follow params")
    assert "isoflop: IsoFLOP profiles need two usable valleys" in sentence
    assert "moe: moe reads the column params_active, which the table lacks" in sentence
    assert "\n" not in sentence


def test_runs_that_differ_in_a_column_that_the_form_reads_are_no_duplicates():
    table = {"batch": [1e4, 1e5, 1e6, 1e7, 1e7], "steps": [9e3, 5e3, 5e3, 4e3, 4e3]}
    law = scaling.fit(table, form="critical_batch", column_loss="steps", starts=8, resamples=0)
    assert len(law.runs) == 4


@pytest.mark.parametrize("what", ["params", "tokens", "flops"])
@pytest.mark.filterwarnings("error")
def test_a_unit_beyond_all_numbers_is_named(what):
    config = scaling.FitConfig(**{f"unit_{what}": 1e308})
    with pytest.raises(UserError, match=f"^fit.unit_{what}=1e[+]308 times a number"):
        scaling.prepare(runs_table(), config)
