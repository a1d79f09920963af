"""job=fit_table: whatever is wrong with a table is one sentence, for every form; settings too."""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from gptjax import config as configs
from gptjax import scaling
from gptjax.errors import UserError
from gptjax.experiment import load, override
from gptjax.jobs import predict
from gptjax.jobs.fit_table import JOB
from gptjax.main import main, parse
from gptjax.report import html

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "tests" / "scaling"))

from known_forms import CONTRACT, clean_loss  # noqa: E402

QUICK = (
    "--config.fit.starts=8",
    "--config.fit.diagnostics=False",
    "--config.report.formats=",
)


@pytest.fixture(autouse=True)
def words_alone(monkeypatch):
    """Pages without their drawings, which take longer than the fits."""
    monkeypatch.setattr(html, "_draw", lambda plot, *rest: html.markup(plot.claim))


def write(path, table):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(table)
        writer.writerows(zip(*table.values(), strict=True))


def command(tmp_path, *flags):
    return [
        "gptjax",
        f"--config={REPO / 'experiments' / 'fit_table.py'}",
        f"--config.fit_table.table={tmp_path / 'runs.csv'}",
        f"--workdir={tmp_path / 'run'}",
        *QUICK,
        *flags,
    ]


def fit_table(tmp_path, table, *flags):
    write(tmp_path / "runs.csv", table)
    return main(command(tmp_path, *flags))


def refusal(tmp_path, table, config):
    """The sentence of a checked config's job."""
    write(tmp_path / "runs.csv", table)
    with pytest.raises(UserError) as caught:
        JOB.main(config, tmp_path / "run")
    return str(caught.value)


def good(name):
    """At most forty rows of a form's table, as lists."""
    case, loss = CONTRACT[name], clean_loss(name)
    keep = np.linspace(0, len(loss) - 1, min(len(loss), 40)).astype(int)
    table = {key: np.asarray(column, float)[keep].tolist() for key, column in case.columns.items()}
    return table | {"target": loss[keep].tolist()}


def put(column, value):
    """A table with one impossible value."""

    def spoil(table, size):
        table["target" if column == "loss" else size][1] = value
        return table

    return spoil


def every(column, change):
    def spoil(table, size):
        name = "target" if column == "loss" else size
        table[name] = [change(value, table[name]) for value in table[name]]
        return table

    return spoil


BAD = {
    "one row": lambda table, size: {name: column[:1] for name, column in table.items()},
    "no row": lambda table, size: {name: [] for name in table},
    "one run again and again": lambda table, size: {n: c[:1] * 9 for n, c in table.items()},
    "one size": every("size", lambda value, column: column[0]),
    "constant loss": every("loss", lambda value, column: 3.0),
    "zero size": put("size", 0.0),
    "negative size": put("size", -1e6),
    "infinite size": put("size", "inf"),
    "missing size": put("size", ""),
    "text in a size": put("size", "a dozen"),
    "size times 1e30": every("size", lambda value, column: value * 1e30),
    "no column": lambda table, size: {n: c for n, c in table.items() if n != size},
    "negative loss": put("loss", -3.0),
    "infinite loss": put("loss", "inf"),
    "missing loss": put("loss", "nan"),
    "text in a loss": put("loss", "3.1.2"),
    "loss times 1e30": every("loss", lambda value, column: value * 1e30),
}


@pytest.mark.parametrize("name", CONTRACT)
def test_a_bad_table_is_one_sentence_for_every_form(tmp_path, capsys, name):
    form, kind = scaling.form_named(name), CONTRACT[name].kind
    size = next(column for column in form.columns if column not in form.loose)
    flags = (
        "--config.fit.approaches=",
        f"--config.fit.forms={name}",
        "--config.fit.resamples=0",
        "--config.fit.column_loss=target",
        f"--config.fit.loss_kind={kind}",
    )
    bad = BAD | {"zero loss": put("loss", 0.0)}
    if kind == "squares":  # a score has a sign of its own there
        bad = {what: spoil for what, spoil in BAD.items() if what != "negative loss"}
    first, *_ = bad.values()
    assert fit_table(tmp_path, first(good(name), size), *flags) == 2
    said = capsys.readouterr().err
    assert said.startswith("gptjax: ") and said.count("\n") == 1
    asked = parse(command(tmp_path, *flags))
    config = configs.make_config(override(load(asked.experiment), asked.overrides))
    for what, spoil in bad.items():
        said = refusal(tmp_path, spoil(good(name), size), config)
        assert len(said) > 32, said
        if what in ("zero size", "negative size"):
            assert size in said and "above zero" in said, said
        assert not (tmp_path / "run" / "laws.json").exists(), what


def sweep_of_rates(noise=1e-3):
    """Nine sizes and token counts, seven learning rates at each."""
    size, data, step = (
        x.ravel()
        for x in np.meshgrid(
            np.geomspace(1e6, 1e8, 3), np.geomspace(1e8, 1e10, 3), np.geomspace(0.4, 2.5, 7)
        )
    )
    best = 0.6 * size**-0.28 * data**0.08
    loss = 1.7 + 400 * size**-0.34 + 1200 * data**-0.36 + 0.05 * np.log(step) ** 2
    loss = loss + noise * np.random.default_rng(0).standard_normal(len(loss))
    return {"params": size, "tokens": data, "learning_rate": best * step, "loss": loss}


def test_the_best_learning_rate_is_a_law_from_a_config(tmp_path, capsys):
    flags = (
        "--config.fit.approaches=parametric",
        "--config.fit.settings=learning_rate",
        "--config.fit.resamples=100",
    )
    assert fit_table(tmp_path, sweep_of_rates(), *flags) == 0
    laws = json.loads((tmp_path / "run" / "laws.json").read_text())
    (found,) = laws["settings_laws"]
    assert found["params"]["a"]["low"] < -0.28 < found["params"]["a"]["high"]
    assert found["params"]["b"]["low"] < 0.08 < found["params"]["b"]["high"]
    assert len([one for one in found["best"] if not one["reason"]]) == 9
    at = found["at"]
    assert at["low"] < 0.6 * at["params"] ** -0.28 * at["tokens"] ** 0.08 < at["high"]
    # The law of the loss uses the best run of each size and tokens; the others are named.
    assert laws["data"]["n_used"] == 9 and len(laws["left_out"]) == 54
    assert "better learning_rate" in laws["left_out"][0]["reason"]
    assert "The best learning rate follows" in capsys.readouterr().out.replace("\n", " ")
    assert "The best learning rate follows" in (tmp_path / "run" / "report.html").read_text()


def test_a_setting_that_was_not_swept_is_said_so(tmp_path, capsys):
    table = sweep_of_rates()
    table = {name: column[3::7] for name, column in table.items()}
    table["batch_size"] = np.full(9, 64.0)
    flags = (
        "--config.fit.approaches=parametric",
        "--config.fit.settings=batch_size",
        "--config.fit.resamples=0",
    )
    assert fit_table(tmp_path, table, *flags) == 0
    assert "No law of the best batch_size" in capsys.readouterr().out


def test_the_critical_batch_is_a_law_from_a_config(tmp_path):
    batch = np.geomspace(1e4, 1e7, 9)
    steps = 2e3 * (1 + 3e5 / batch) * np.exp(0.01 * np.cos(7 * np.arange(9)))
    flags = (
        "--config.fit.approaches=",
        "--config.fit.forms=critical_batch",
        "--config.fit.column_loss=steps",
        "--config.fit.resamples=200",
    )
    assert fit_table(tmp_path, {"batch": batch, "steps": steps}, *flags) == 0
    law = json.loads((tmp_path / "run" / "laws.json").read_text())["laws"]["critical_batch"]
    assert law["params"]["B_crit"]["low"] < 3e5 < law["params"]["B_crit"]["high"]


OWN_FORM = """
from gptjax import scaling

FORM = scaling.Form(
    name="one_exponent",
    equation="L = E + A (N^-alpha + D^-alpha)",
    columns=("params", "tokens"),
    parameters=(scaling.positive("E"), scaling.positive("A", high=1e9), scaling.exponent("alpha")),
    linear=("E", "A"),
    loss=lambda p, x: p["E"]
    + p["A"] * (scaling.power(x["params"], -p["alpha"]) + scaling.power(x["tokens"], -p["alpha"])),
)
"""


def test_sizes_and_flops_alone_a_form_from_a_file_and_the_loss_of_a_model(tmp_path, capsys):
    size, data = (x.ravel() for x in np.meshgrid(np.geomspace(1e7, 1e9, 4), [1e9, 4e9, 2e10]))
    loss = 2 + 50 * (size**-0.3 + data**-0.3)
    table = {"N": size.round(), "C": 6 * size.round() * data, "loss": loss}
    (tmp_path / "mine.py").write_text(OWN_FORM)
    flags = (
        f"--config.fit.form_files={tmp_path / 'mine.py'}",
        "--config.fit.forms=one_exponent",
        "--config.fit.approaches=",
        "--config.fit.resamples=30",
    )
    assert fit_table(tmp_path, table, *flags) == 0
    assert "D = C / 6N" in capsys.readouterr().out
    laws = json.loads((tmp_path / "run" / "laws.json").read_text())
    assert laws["laws"]["one_exponent"]["params"]["alpha"]["value"] == pytest.approx(0.3, rel=1e-4)
    assert "one exponent" in (tmp_path / "run" / "report.html").read_text()
    scaling.FORMS.pop("one_exponent")  # as in another process
    asked = scaling.predict_loss(laws, 1e10, 1e11)
    assert asked[0]["loss"] == pytest.approx(2 + 50 * (1e10**-0.3 + 1e11**-0.3), rel=1e-4)
    place = f"--config.predict.laws={tmp_path / 'run' / 'laws.json'}"
    model = ("--config.predict.params=1e10", "--config.predict.tokens=1e11")
    command = [
        "gptjax",
        f"--config={REPO / 'experiments' / 'fit_table.py'}",
        "--config.job=predict",
    ]
    assert main([*command, place, *model]) == 0
    assert "one_exponent" in capsys.readouterr().out
    assert main([*command, place, model[0]]) == 2
    assert "predict.tokens" in capsys.readouterr().err
    scaling.FORMS.pop("one_exponent")


def test_a_file_without_a_form_is_refused(tmp_path, capsys):
    (tmp_path / "empty.py").write_text("x = 1\n")
    table = {"params": [1e7, 2e7, 3e7], "loss": [3.0, 2.5, 2.2]}
    flags = (f"--config.fit.form_files={tmp_path / 'empty.py'}", "--config.fit.approaches=")
    assert fit_table(tmp_path, table, *flags) == 2
    assert "has no form" in capsys.readouterr().err


def test_a_target_below_zero_is_fitted_by_squares(tmp_path):
    size = np.geomspace(1e6, 1e9, 12)
    table = {"params": size, "gain": 0.5 - 30 * size**-0.25}
    flags = (
        "--config.fit.approaches=",
        "--config.fit.forms=smooth",
        "--config.fit.column_loss=gain",
        "--config.fit.loss_kind=squares",
        "--config.fit.check_units=False",
        "--config.fit.resamples=0",
    )
    assert min(table["gain"]) < 0
    assert fit_table(tmp_path, table, *flags) == 0
    laws = json.loads((tmp_path / "run" / "laws.json").read_text())
    assert laws["laws"]["smooth"]["params"]["top"]["value"] == pytest.approx(0.5, abs=1e-3)


def test_a_law_without_a_loss_says_why(monkeypatch, capsys):
    entries = [
        {"law": law, "flops": 1e20, "params": 1e9, "tokens": 1e10, "tokens_per_param": 10.0} | loss
        for law, loss in (("isoflop", {}), ("envelope", {}), ("chinchilla", {"loss": 2.0}))
    ]
    monkeypatch.setattr(predict, "read_laws", lambda path: {"runs": [], "laws": {}})
    monkeypatch.setattr(
        predict, "predict_saved", lambda laws, flops: [e | {"sentence": ""} for e in entries]
    )
    experiment = f"--config={REPO / 'experiments' / 'predict.py'}"
    flags = ("--config.predict.laws=laws.json", "--config.predict.flops=1e20")
    assert main(["gptjax", experiment, *flags]) == 0
    said = capsys.readouterr().out
    assert "isoflop has no law of the loss: it takes four valleys" in said
    assert "envelope has no law of the loss: its curves" in said
    assert "chinchilla has no law" not in said
