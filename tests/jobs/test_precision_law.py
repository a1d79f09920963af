"""job=precision_law: the law of added losses, from a table and from a small sweep."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptjax import config as configs
from gptjax import experiment, scaling
from gptjax.errors import UserError
from gptjax.jobs import precision_law
from gptjax.main import main

EXPERIMENT = Path(__file__).parents[2] / "experiments" / "precision_law.py"
TRUTH = {"C": 2.0, "gamma_D": 0.4, "gamma_N": 0.5, "gamma_P": 0.6}


def table():
    """A cell's rows share its name; losses follow the law with 5 % of scatter."""
    rng, rows = np.random.default_rng(0), []
    for params in (1e4, 3e4, 1e5, 3e5):
        for tokens in (1e6, 4e6, 1.6e7):
            for bits in (3, 4, 6, 8):
                law = TRUTH["C"] * tokens ** TRUTH["gamma_D"] * params ** -TRUTH["gamma_N"]
                loss = law * np.exp(-bits / TRUTH["gamma_P"]) * np.exp(0.05 * rng.normal())
                name = f"{params:.0f}-{tokens:.0f}"
                row = {"cell": f"{name}-{bits}", "trunk": name, "bits": bits, "loss": loss}
                rows.append(row | {"params": params, "tokens": tokens})
    rows[3]["loss"] = -1e-4  # nothing was lost there
    return scaling.Table.from_records(rows)


def test_the_law_of_a_table_is_found(tmp_path, capsys):
    config = experiment.load(str(EXPERIMENT))
    config["fit"].update(resamples=40, params_convention="total")
    config["report"]["formats"] = ("png",)
    precision_law.laws_of(configs.make_config(config), tmp_path, table())
    found = json.loads((tmp_path / "precision.json").read_text())
    for name in ("gamma_D", "gamma_N", "gamma_P"):
        assert abs(found["params"][name]["value"] / TRUTH[name] - 1) < 0.1
        interval = found["params"][name]["low"], found["params"][name]["high"]
        assert 0.98 * interval[0] < TRUTH[name] < 1.02 * interval[1]
    assert (found["points"], found["without_added_loss"]) == (47, 1)
    assert len(found["held_out"]["rows"]) == 4 and found["held_out"]["median_factor"] < 1.15
    assert (tmp_path / "figures" / "precision.png").exists()
    assert "47 points, 1 more where nothing was lost" in capsys.readouterr().out


def test_bits_in_the_noise_are_left_out(tmp_path, capsys):
    """At 8 bits losses are noise around nothing: a law of the positive half would bend upwards."""
    config = experiment.load(str(EXPERIMENT))
    config["fit"].update(resamples=0, params_convention="total")
    config["report"]["formats"] = ("png",)
    given, rng = table(), np.random.default_rng(1)
    loss, bits = given.numbers("loss"), given.numbers("bits")
    loss = np.where(bits == 8, 1e-3 * rng.normal(size=len(loss)), loss)
    names = ("cell", "trunk", "params", "tokens", "bits")
    columns = [given.columns[name] for name in names]
    rows = [dict(zip(names, row, strict=True)) for row in zip(*columns, strict=True)]
    noisy = [row | {"loss": x} for row, x in zip(rows, loss, strict=True)]
    settings = configs.make_config(config)
    precision_law.laws_of(settings, tmp_path, scaling.Table.from_records(noisy))
    found = json.loads((tmp_path / "precision.json").read_text())
    assert abs(found["params"]["gamma_P"]["value"] / TRUTH["gamma_P"] - 1) < 0.05
    assert found["points"] == 36 and found["share_that_loses"]["8"] < 0.9
    assert "8 bits" in capsys.readouterr().out
    half = scaling.Table.from_records([row for row in noisy if row["bits"] in (8, 6)])
    with pytest.raises(UserError, match="fewer than two numbers of bits"):
        precision_law.laws_of(settings, tmp_path, half)


def test_what_is_not_finite_is_printed_as_a_dash(tmp_path, capsys):
    """Without resamples there are no intervals, and nothing is inside of them."""
    config = experiment.load(str(EXPERIMENT))
    config["fit"].update(resamples=0, params_convention="total")
    config["report"]["formats"] = ("png",)
    precision_law.laws_of(configs.make_config(config), tmp_path, table())
    shown = capsys.readouterr().out
    assert "[–, –]" in shown and "– inside their intervals" in shown


def test_one_number_of_bits_makes_no_law():
    config = experiment.load(str(EXPERIMENT))
    config["sweep"]["quantize_bits"] = (4,)
    with pytest.raises(UserError, match="gives job=precision_law nothing to compare"):
        configs.make_config(config)


@pytest.mark.slow
def test_cells_are_scored_in_few_bits(tmp_path):
    """Two widths, two lengths: rows for every cell and bits, more loss with fewer bits."""
    flags = {
        "data.source": "zipf-facts",
        "data.zipf_facts.tokens": 65536,
        "data.zipf_facts.heldout_tokens": 4096,
        "data.cache_dir": tmp_path / "cache",
        "model.seq_len": 40,
        "sweep.widths": "(8,16)",
        "sweep.tokens": "(16384,32768,65536)",
        "sweep.seeds": "(0,)",
        "sweep.quantize_bits": "(8,4,2)",
        "sweep.workers": 1,
        "fit.resamples": 10,
    }
    flags = [f"--config.{name}={value}" for name, value in flags.items()]
    workdir = tmp_path / "sweep"
    assert main(["gptjax", f"--config={EXPERIMENT}", f"--workdir={workdir}", *flags]) == 0
    rows = scaling.Table.read(workdir / "quantized.csv")
    loss, bits = rows.numbers("loss"), rows.numbers("bits")
    assert len(loss) == 18 and np.median(loss[bits == 2]) > 3 * np.median(loss[bits == 4])
    assert np.all(np.abs(loss[bits == 8]) < 0.02)
    assert (workdir / "precision.json").exists()
