"""Tables as other people's tools write them: dialects, states, units, curves, hidden settings."""

import json
import math

import numpy as np
import pytest
from known_runs import runs_table

from gptjax import scaling
from gptjax.errors import UserError
from gptjax.scaling.tables import states, units
from gptjax.scaling.tables.table import Table

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
    "bars": (HEADER + PLAIN).replace(",", "|"),
    "apostrophes": HEADER + "20'145'496,8’273’147’837,3.71013\n32'232'794,5'170'717'334,3.61369\n",
    "spaces and decimal commas": "params;tokens;loss\n"
    "20 145 496;8\u202f273\u202f147\u202f837;3,71013\n"
    "32\u00a0232\u00a0794;5 170 717 334;3,61369\n",
    "words": HEADER + "20.145496 million,8.273147837bn tokens,3.71013\n"
    "32.232794Mio,5170717334 tokens,3.61369\n",
    "powers": HEADER
    + "2.0145496x10^7,8.273147837×10⁹,3.71013\n3.2232794e7,5.170717334*10**9,3.61369\n",
    "quoted decimal commas": HEADER
    + '20145496,8273147837,"3,71013"\n32232794,5170717334,"3,61369"\n',
}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-32"])
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


@pytest.mark.parametrize(
    ("start", "sentence"),
    [
        (b"PK\x03\x04", "ZIP archive, such as an Excel file"),
        (b"\x1f\x8b\x08", "compressed by gzip"),
        (b"%PDF-1.7", "a PDF"),
        (b"<!DOCTYPE html>", "a web page"),
    ],
)
def test_a_file_that_is_no_table_is_named(tmp_path, start, sentence):
    path = tmp_path / "runs.csv"
    path.write_bytes(start + b" and more\n")
    with pytest.raises(UserError, match=sentence):
        scaling.Table.read(path)


def test_json_of_rows_or_columns_is_a_table(tmp_path):
    rows = [{"params": 1e7, "loss": 3.5}, {"params": 2e7, "loss": 3.4}]
    columns = {"params": [1e7, 2e7], "loss": {"0": 3.5, "1": 3.4}}
    path = tmp_path / "runs.json"
    for content in (rows, columns):
        path.write_text(json.dumps(content))
        assert scaling.Table.read(path).numbers("loss").tolist() == [3.5, 3.4]
    path.write_text("[1]")
    with pytest.raises(UserError, match="no list of JSON objects"):
        scaling.Table.read(path)


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
    "ray tune": ("status", ["TERMINATED", "ERROR", "RUNNING", "PENDING", "PAUSED"], 1),
    "clearml": ("Status", ["published", "completed", "aborted", "created", "in_progress"], 2),
    "neptune": ("sys/state", ["Inactive", "Active", "Active", "Active", "Active"], 1),
    "neptune's flag": ("sys/failed", ["False", "True", "True", "True", "True"], 1),
    "comet": ("hasCrashed", ["false", "false", "true", "true", "true"], 2),
    "vertex": ("state", ["JOB_STATE_SUCCEEDED", *4 * ["JOB_STATE_CANCELLED"]], 1),
    "kubernetes": ("podStatus", ["Succeeded", "OOMKilled", "Evicted", "Error", "Pending"], 1),
    "azure": (
        "runStatus",
        ["Completed", "NotResponding", "CancelRequested", "Failed", "Canceled"],
        1,
    ),
    "words": ("outcome", ["done", "did not finish", "✗ crashed", "Failed (OOM)", "aborted"], 1),
    "flags": ("is_finished", ["yes", "no", "no", "no", "no"], 1),
    "numbers": ("done", [1.0, 0.0, 0.0, 0.0, 0.0], 1),
    "exit codes": ("exit_code", [0.0, 1.0, 137.0, -9.0, 2.0], 1),
    "slurm's exit codes": ("ExitCode", ["0:0", "1:0", "0:15", "137:0", ""], 1),
    "shares": ("progress", ["100%", "4%", "99%", "50%", "0%"], 1),
    "slurm's letters": ("ST", ["CD", "TO", "F", "NF", "CA"], 1),
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


@pytest.mark.parametrize("column", ["random_state", "rng_state", "final_state"])
def test_numbers_under_a_longer_name_are_no_states(column):
    """A seed, as scikit-learn calls it; words under such a name are states."""
    table = {key: value[:4] for key, value in runs_table().items()}
    said = scaling.prepare(table | {column: [0.0, 1.0, 2.0, np.nan]}).warnings
    assert not any(column in one for one in said)
    assert (
        len(scaling.prepare(table | {column: ["finished", "crashed", "finished", "killed"]})) == 2
    )


def test_columns_that_only_look_like_states_are_read_as_what_they_are():
    table = {key: value[:4] for key, value in runs_table().items()}
    for column, values in {
        "error": [0.01, 0.02, 0.01, 0.03],
        "progress": [0.1, 0.2, 0.3, 0.4],
        "finished": ["", "", "", ""],
        "failed": [0.0, 0.0, np.nan, 0.0],
        "exit_code": [np.nan] * 4,
        "state": ["finished", "finished without errors", "ended", "ok"],
    }.items():
        assert len(scaling.prepare(table | {column: values})) == 4, column
    for column, values, said in (
        ("status", [0.0, 1.0, 1.0, 1.0], "status=0 is no state"),
        ("status", ["finished", "", "done", "ok"], "status is empty in 1 row"),
        ("status", ["TERMINATED"] * 4, "Ray Tune"),
    ):
        runs = scaling.prepare(table | {column: values})
        assert len(runs) == 4 and any(said in line for line in runs.warnings)


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
    for name, values, unit in (
        ("val_ppl", np.exp(loss), "perplexity"),
        ("val/ppl_c4", np.exp(loss), "perplexity"),
        ("eval_loss", np.exp(loss + 1), "perplexity"),
        ("bits_per_byte", loss / 3, "bits"),
        ("val_bpb", loss / 3, "bits"),
    ):
        config = scaling.FitConfig(column_loss=name)
        with pytest.raises(UserError, match=f"loss_unit={unit}"):
            scaling.prepare({**table, name: values}, config)


def test_units_that_are_possible_and_rare_are_told():
    table = {key: np.asarray(runs_table()[key]) for key in ("params", "tokens", "loss")}
    thousands = {**table, "tokens": np.round(table["tokens"] / 1e3)}
    assert any("which is rare" in line for line in scaling.prepare(thousands).warnings)
    assert not any("which is rare" in line for line in scaling.prepare(table).warnings)


def test_tokens_made_of_flops_in_another_unit_are_refused():
    table = {key: np.asarray(runs_table()[key]) for key in ("params", "flops", "loss")}
    with pytest.raises(UserError, match="D = C / 6N is"):
        scaling.prepare({**table, "flops": table["flops"] / 8.64e19})
    found = scaling.prepare(
        {**table, "flops": table["flops"] / 8.64e19}, scaling.FitConfig(unit_flops=8.64e19)
    )
    assert found.tokens == pytest.approx(scaling.prepare(table).tokens)


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


def test_rows_of_other_metrics_are_no_points_of_a_curve():
    """Loggers write training and held-out losses of one step into rows of their own."""
    table = {name: np.repeat(column, 2) for name, column in curves().items()}
    table["loss"] = np.where(np.arange(168) % 2, table["loss"], np.nan)
    runs = scaling.prepare(table)
    assert runs.loss == pytest.approx(runs_table(budgets=3)["loss"])
    assert any("84 rows without loss lie before one" in said for said in runs.warnings)
    table["loss"][-1] = np.nan  # the last run ends without a loss
    with pytest.raises(UserError, match="missing or NaN"):
        scaling.prepare(table)


def test_a_run_without_a_loss_is_no_row_of_another_run_of_its_model():
    """`steps` beside a model are those of each run of a grid, and this run may have diverged."""
    grid = curves("model", steps=False) | {"steps": np.arange(84.0)}
    grid["loss"][0] = np.nan
    with pytest.raises(UserError, match="missing or NaN"):
        scaling.prepare(grid)


@pytest.mark.parametrize(
    ("name", "step"),
    [
        ("Run Name", "Step"),
        ("experiment_id", ""),
        ("trial", ""),
        ("slurm_job_id", ""),
        ("display_name", "train/global_step"),
        ("model", "iteration"),
        ("uuid", ""),
        ("version", "step"),
    ],
)
def test_a_curve_is_known_by_the_words_of_its_columns(name, step):
    table = curves(name, steps=False)
    table |= {step: [100.0, 200.0, 300.0, 400.0] * 21} if step else {}
    runs = scaling.prepare(table)
    assert len(runs) == 21 and any(f"told apart by {name}" in said for said in runs.warnings)


def test_versions_of_a_name_are_runs():
    """Lightning counts the runs of each name: version_0 of one name is not that of another."""
    table = curves("run", steps=True)
    order = np.repeat(np.arange(21), 4)
    del table["run"]
    table["name"] = np.array([f"size{i // 3}" for i in order])
    table["version"] = np.array([f"version_{i % 3}" for i in order])
    whole = runs_table(budgets=3)
    table["params"] = np.repeat(whole["params"][::3], 12)  # three runs of each of seven sizes
    config = scaling.FitConfig(check_units=False)
    runs = scaling.prepare(table, config)
    assert len(runs) == 21 and len(runs.left_out) == 63
    assert any("told apart by name and version" in said for said in runs.warnings)
    table["loss"] = np.where(np.arange(84) == 83, np.nan, table["loss"])  # the last run diverged
    with pytest.raises(UserError, match="missing or NaN"):
        scaling.prepare(table, config)


def test_runs_of_one_name_whose_steps_start_again_are_no_curve():
    table = curves("model", steps=False)
    table["step"] = 1e5 / table["tokens"]  # of each run of a grid, with other batches
    runs = scaling.prepare(table)
    assert len(runs) == 84 and runs.group_by == "model"
    assert any("resampled together" in said for said in runs.warnings)


@pytest.mark.parametrize("name", ["dataset_name", "tokenizer", "max_steps", "warmup_steps"])
def test_names_of_other_things_are_no_runs(name):
    table = curves("row", steps=False) | {name: [f"x{i // 4}" for i in range(84)]}
    assert len(scaling.prepare(table)) == 84


def test_models_trained_several_times_are_resampled_together():
    runs = scaling.prepare(curves("name", steps=False))
    assert len(runs) == 84 and runs.group_by == "name" and runs.groups == 21
    assert any("resampled together" in said for said in runs.warnings)
    grid = curves("model", steps=False) | {"steps": np.arange(84.0)}
    assert len(scaling.prepare(grid)) == 84  # the steps of each run


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


@pytest.mark.parametrize(
    ("column", "cells", "left_out"),
    [
        ("job_exit_code", [0, 1], [1]),
        ("sys/exit_code", [0, 137], [1]),
        ("exit_status", ["COMPLETED", "FAILED"], [1]),
        ("state", ["10 errors", "0 errors"], [0]),
        ("state", ["bloom done", "installed ok"], []),
        ("error", ["No error", "CUDA OOM"], [1]),
        ("timeout", ["24h", "24h"], []),
        ("success", ["failed", "ok"], [0]),
        ("has_crashed", ["yes", "no"], [0]),
    ],
)
def test_flags_and_codes_are_read_by_what_they_say(column, cells, left_out):
    found, _ = states.unfinished(Table.from_columns({"params": [1e6, 2e6], column: cells}, "t"))
    assert sorted(found) == left_out


def test_shares_of_progress_that_are_missing_are_a_doubt():
    table = Table.from_columns({"params": [1e6, 2e6, 3e6], "progress": [0.5, math.nan, 1.0]}, "t")
    found, doubts = states.unfinished(table)
    assert sorted(found) == [0] and "empty in 1 row" in doubts[0]


@pytest.mark.parametrize(
    ("column", "unit"),
    [
        *(("valPPL", "perplexity"), ("valPerplexity", "perplexity"), ("myppl", "perplexity")),
        *(("loss_bits", "bits"), ("val_bpb", "bits"), ("loss_4bits", ""), ("loss_bits4", "")),
        *(("c4_bits_per_byte", "bits"), ("wikitext103_bits", "bits"), ("loss_4_bits", "")),
        *(("loss_bits_4", ""), ("loss bits-4", "")),
        ("val_loss", ""),
    ],
)
def test_the_unit_of_a_loss_by_its_name(column, unit):
    if not unit:
        return units.check_loss("t", column, np.array([3.0, 2.5]))
    with pytest.raises(UserError, match=f"fit.loss_unit={unit}"):
        units.check_loss("t", column, np.array([3.0, 2.5]))


def test_columns_of_json_are_joined_by_the_names_of_their_rows(tmp_path):
    path = tmp_path / "t.json"
    columns = {"params": {"0": 1e6, "1": 2e6}, "loss": {"1": 3.1, "0": 3.9}}
    path.write_text(json.dumps(columns))
    assert Table.read(path).numbers("loss").tolist() == [3.9, 3.1]
    path.write_text(json.dumps(columns | {"loss": {"2": 3.1, "0": 3.9}}))
    with pytest.raises(UserError, match="other rows in loss"):
        Table.read(path)


def test_a_rate_is_no_count(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("params,tokens,flops,loss\n1e8,2e9,312 TFLOP/s,3.0\n2e8,4e9,312 TFLOP/s,2.8\n")
    with pytest.raises(UserError):
        scaling.prepare(Table.read(path), scaling.FitConfig(), ("params", "tokens"))


@pytest.mark.parametrize("values", [[-0.1, -0.2, -0.3], [-1, 0, 1], [0.5, 0.1, 0.0]])
def test_measured_errors_are_no_flags(values):
    table = Table.from_columns({"error": values, "failed": values}, "t")
    assert states.unfinished(table) == ({}, [])


def test_rows_of_means_and_totals_are_no_runs(tmp_path):
    table = runs_table(budgets=3)
    table = {name: np.asarray(table[name]) for name in ("cell", "params", "tokens", "loss")}
    for make in (np.mean, np.sum):
        added = {n: np.append(c, make(c)) for n, c in table.items() if n != "cell"}
        runs = scaling.prepare(added)
        assert len(runs) == 21
        assert any(f"row 22 ({make.__name__})" in said for said in runs.warnings)
    odd = {name: np.append(column, 1e9) for name, column in table.items() if name != "cell"}
    named = odd | {"cell": np.append(table["cell"], "Average"), "loss": np.append(table["loss"], 3)}
    runs = scaling.prepare(named)
    assert len(runs) == 21 and any("(average)" in said for said in runs.warnings)
    usual = {name: np.append(column, column[0] * 1.1) for name, column in odd.items()}
    assert len(scaling.prepare(usual | {"loss": np.append(odd["loss"][:-1], [3, 3.1])})) == 23


@pytest.mark.parametrize(
    ("reached", "planned"),
    [("step", "max_steps"), ("config.epoch", "target_epochs"), ("tokens", "target_tokens")],
)
def test_runs_short_of_their_plan_are_left_out(reached, planned):
    table = dict(runs_table(budgets=3))
    whole = np.asarray(table["tokens"]) if reached == "tokens" else np.full(21, 1000.0)
    got = np.where(np.arange(21) % 7 == 3, 0.5, 1.0) * whole
    table |= {planned: whole, reached: got, "learning_rate_steps": np.full(21, 7.0)}
    config = scaling.FitConfig(tokens_convention="seen", check_units=False)
    runs = scaling.prepare(table, config)
    assert len(runs) == 18 and f" of {whole[3]:g}" in runs.left_out[0].reason
    table[reached] = whole * 0.5  # no run reaches it: it is the plan of something else
    assert len(scaling.prepare(table, config)) == 21


@pytest.mark.parametrize(
    "start",
    ["# exported by us\n#\n", "# ", "#", "# params, tokens and losses\n# "],
    ids=["comments", "a marked header", "the same", "both"],
)
def test_comments_before_the_header_are_none_of_it(tmp_path, start):
    path = tmp_path / "runs.csv"
    path.write_text(start + HEADER + PLAIN)
    table = scaling.Table.read(path)
    assert list(table.columns) == HEADER.strip().split(",")
    assert table.places[0] == 2 + start.count("\n")


def test_a_column_of_numbers_of_rows_keeps_its_name(tmp_path):
    path = tmp_path / "runs.csv"
    path.write_text("#,params\n1,1e6\n2,2e6\n")
    assert list(scaling.Table.read(path).columns) == ["#", "params"]


def test_active_parameters_beside_others_are_said():
    table = dict(runs_table(budgets=3))
    said = scaling.prepare({**table, "active_params": np.asarray(table["params"]) / 8}).warnings
    assert any("fit.column_params=active_params" in line for line in said)
    assert not any("active" in line for line in scaling.prepare(table).warnings)
