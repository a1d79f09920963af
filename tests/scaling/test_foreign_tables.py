"""Tables as other people's tools write them: dialects, states, units, curves, hidden settings."""

import json

import numpy as np
import pytest
from known_runs import runs_table

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.tables import states

HEADER = "params,tokens,loss\n"
PLAIN = "20145496,8273147837,3.71013\n32232794,5170717334,3.61369\n"
DIALECTS = {
    "semicolons": HEADER.replace(",", ";") + PLAIN.replace(",", ";"),
    "tabs": HEADER.replace(",", "\t") + PLAIN.replace(",", "\t"),
    "sep line": "sep=;\n" + (HEADER + PLAIN).replace(",", ";"),
    "decimal commas": (HEADER + PLAIN).replace(",", ";").replace("3.", "3,"),
    "dotted thousands": "params;tokens;loss\n20.145.496;8.273.147.837;3,71013\n"
    "32.232.794;5.170.717.334;3,61369\n",
    "quoted thousands": HEADER + '"20,145,496","8,273,147,837",3.71013\n'
    '"32,232,794","5,170,717,334",3.61369\n',
    "suffixes": HEADER + "20.145496M,8.273147837B,3.71013\n32.232794M,5.170717334 B,3.61369\n",
    "quoted decimal commas": HEADER
    + '20145496,8273147837,"3,71013"\n32232794,5170717334,"3,61369"\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("name", DIALECTS)
def test_a_dialect_is_read(tmp_path, name, encoding):
    path = tmp_path / "runs.csv"
    path.write_bytes(DIALECTS[name].encode(encoding))
    table = scaling.Table.read(path)
    assert table.numbers("params").tolist() == [20145496, 32232794]
    assert table.numbers("tokens").tolist() == pytest.approx([8273147837, 5170717334])
    assert table.numbers("loss").tolist() == [3.71013, 3.61369]


def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("params;tokens;loss\n20145496;8273147837;3,710\n32232794;5170717334;3,613\n")
    with pytest.raises(UserError, match="decimals or thousands"):
        scaling.Table.read(path)


def test_rows_are_numbered_as_a_spreadsheet_does(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text(HEADER + "\n" + PLAIN + "1e8,2e9,\n")
    with pytest.raises(UserError, match="row 5: loss is missing"):
        scaling.prepare(path)


def test_json_lines_are_a_table(tmp_path):
    path = tmp_path / "runs.jsonl"
    rows = [
        {"params": 1e7, "tokens": 1e9, "loss": 3.5},
        {"params": 2e7, "tokens": 1e9, "loss": 3.4},
    ]
    path.write_text("".join(json.dumps({**row, "summary": {"x": 1}}) + "\n" for row in rows))
    table = scaling.Table.read(path)
    assert table.numbers("loss").tolist() == [3.5, 3.4] and "summary.x" in table
    path.write_text('{"params": 1}\n[2]\n')
    with pytest.raises(UserError, match="line 2 is no JSON object"):
        scaling.Table.read(path)


STATES = {
    "wandb": ("State", ["finished", "crashed", "killed", "running", "failed"], 1),
    "mlflow": ("status", ["FINISHED", "FAILED", "KILLED", "RUNNING", "SCHEDULED"], 1),
    "optuna": ("state", ["TrialState.COMPLETE", "COMPLETE", "PRUNED", "FAIL", "WAITING"], 2),
    "slurm": ("State", ["COMPLETED", "CANCELLED by 1000", "TIMEOUT", "OUT_OF_ME+", "NODE_FAIL"], 1),
}


@pytest.mark.parametrize("name", STATES)
def test_unfinished_runs_are_left_out_by_name_and_counted(name):
    column, words, good = STATES[name]
    table = {key: value[:5] for key, value in runs_table().items()} | {column: words}
    runs = scaling.prepare(table)
    assert len(runs) == good
    assert [one.cell for one in runs.left_out] == [f"cell-{i}" for i in range(good, 5)]
    assert any(f"{5 - good} run(s) that did not finish" in said for said in runs.warnings)


def test_a_state_that_is_no_state_of_a_run_is_kept():
    table = {key: value[:4] for key, value in runs_table().items()}
    assert len(scaling.prepare(table | {"state": ["Ohio", "Utah", "Ohio", "Iowa"]})) == 4
    runs = scaling.prepare(table | {"state": ["finished", "odd", "finished", ""]})
    assert len(runs) == 4 and any("state=odd" in said for said in runs.warnings)
    assert states.word("killed ") == "killed"


WRONG_UNITS = {
    "millions and billions": ({"params": 1e6, "tokens": 1e9}, False, "no plain count"),
    "billions of tokens": ({"tokens": 1e9}, True, "no plain count"),
    "millions of tokens": ({"tokens": 1e6}, True, "plain count|times 6 N D|tokens per parameter"),
    "thousands of both": ({"params": 1e3, "tokens": 1e3}, True, "plain count|times 6 N D"),
    "petaflop days": ({"flops": 8.64e19}, True, "times 6 N D"),
    "thousands of parameters": ({"params": 1e9}, False, "no plain count|tokens per parameter"),
}


@pytest.mark.parametrize("name", WRONG_UNITS)
def test_other_units_are_refused_and_can_be_named(name):
    units, with_flops, sentence = WRONG_UNITS[name]
    table = runs_table()
    table = {
        key: np.asarray(value) / units.get(key, 1.0) if key in units else value
        for key, value in table.items()
        if with_flops or key not in ("flops", "budget")
    }
    with pytest.raises(UserError, match=sentence):
        scaling.prepare(table)
    known = {f"unit_{key}": value for key, value in units.items()}
    runs = scaling.prepare(table, scaling.FitConfig(**known))
    assert runs.params == pytest.approx(runs_table()["params"])
    assert runs.tokens == pytest.approx(runs_table()["tokens"])
    assert len(scaling.prepare(table, scaling.FitConfig(check_units=False))) == 35


def test_rows_in_another_unit_are_named():
    table = runs_table()
    table["params"] = np.where(
        np.arange(35) == 20, np.round(table["params"] / 1e6), table["params"]
    )
    table.pop("flops"), table.pop("budget")
    with pytest.raises(UserError, match="row 21"):
        scaling.prepare(table)


def test_perplexities_and_bits_are_read_as_nats():
    table = runs_table()
    loss = table["loss"]
    for unit, values in (("perplexity", np.exp(loss)), ("bits", loss / np.log(2))):
        runs = scaling.prepare({**table, "loss": values}, scaling.FitConfig(loss_unit=unit))
        assert runs.loss == pytest.approx(loss)
    with pytest.raises(UserError, match="loss_unit=perplexity"):
        scaling.prepare({**table, "loss": np.exp(loss + 1)})
    with pytest.raises(UserError, match="loss_unit=perplexity"):
        renamed = {**table, "val_ppl": np.exp(loss)}
        scaling.prepare(renamed, scaling.FitConfig(column_loss="val_ppl"))


def curves(column="run", steps=True):
    table = runs_table(budgets=3)
    table = {
        key: np.repeat(np.asarray(table[key]), 4) for key in ("params", "tokens", "loss", "cell")
    }
    share = np.tile([0.25, 0.5, 0.75, 1.0], len(table["loss"]) // 4)
    table["tokens"] = table["tokens"] * share
    table[column] = table.pop("cell")
    return table | ({"step": share * 100} if steps else {})


def test_a_curve_in_long_form_is_one_run():
    runs = scaling.prepare(curves())
    assert len(runs) == 21 and len(runs.left_out) == 63
    assert runs.tokens == pytest.approx(runs_table(budgets=3)["tokens"])
    assert any("84 rows are points of 21 curves" in said for said in runs.warnings)


def test_models_trained_several_times_are_resampled_together():
    runs = scaling.prepare(curves("name", steps=False))
    assert len(runs) == 84 and runs.group_by == "name" and runs.groups == 21
    assert any("resampled together" in said for said in runs.warnings)


def test_several_conditions_select_rows():
    table = runs_table() | {"data": ["a", "b"] * 17 + ["a"]}
    middle = float(np.median(table["params"]))
    runs = scaling.prepare(table, scaling.FitConfig(where=f"data=a,params>={middle},loss<9"))
    assert 0 < len(runs) < 18 and runs.params.min() >= middle
    runs = scaling.prepare(table, scaling.FitConfig(where="data!=a", exclude_highest_losses=3))
    assert len(runs) == 14
    with pytest.raises(UserError, match="not a number"):
        scaling.prepare(table, scaling.FitConfig(where="params>many"))


def test_duplicates_can_be_kept():
    table = {n: [*v, *v[:2]] for n, v in runs_table().items()}
    assert len(scaling.prepare(table, scaling.FitConfig(keep_duplicates=True))) == 37
