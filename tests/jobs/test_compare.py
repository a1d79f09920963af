"""job=compare: from variants to the figures, and what it refuses."""

import json

import pytest
from test_kill import workers_here

from gptjax.errors import UserError
from gptjax.main import main
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.report import comparison
from gptjax.sweeps import CompareConfig, make_comparison
from gptjax.train import RunSpec

BASE = RunSpec(model=ModelConfig(vocab_size=8), optim=OptimConfig(b2=0.9), batch_size=2, steps=9)


def test_every_variant_at_every_rate_and_seed():
    config = CompareConfig(
        variants=("a: name=lion learning_rate=1e-3", "b: no_decay=x,y"),
        learning_rates=(0.5, 2.0),
        seeds=(0, 7),
    )
    members = make_comparison(config, BASE, "corpus")
    found = [(m.label, m.learning_rate, m.cell.run.seed) for m in members]
    assert found[:4] == [("a", 5e-4, 0), ("a", 5e-4, 7), ("a", 2e-3, 0), ("a", 2e-3, 7)]
    assert members[0].cell.run.optim.name == "lion" and members[0].cell.run.optim.b2 == 0.9
    assert members[-1].cell.run.optim.no_decay == ("x", "y")
    assert len({member.cell.id for member in members}) == len(members) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name=lion", "LABEL: KEY=VALUE"),
        ("a: nam=lion", "did you mean name"),
        ("a: name", "without a value"),
        ("a: name=lino", "did you mean lion"),
        ("a: width_transfer=mup", "for all variants"),
    ],
)
def test_a_wrong_variant_is_refused(text, words):
    with pytest.raises(UserError, match=words):
        make_comparison(CompareConfig(variants=(text,)), BASE, "corpus")


def test_two_variants_of_one_label_are_refused():
    with pytest.raises(UserError, match="twice"):
        make_comparison(CompareConfig(variants=("a: b1=0.1", "a: b1=0.2")), BASE, "corpus")


def row(label, rate, seed, loss):
    losses = [] if loss is None else [loss + 1, loss]
    return {
        "label": label,
        "learning_rate": rate,
        "seed": seed,
        "loss": loss,
        "losses": losses,
        "status": "failed" if loss is None else "done",
        "tokens": [10, 20],
        "seconds": 2.0,
        "flops": 1e9,
    }


def test_the_best_rate_has_the_lowest_mean_over_seeds():
    rows = [
        row("a", 1.0, 0, 2.0),
        row("a", 1.0, 1, 2.2),
        row("a", 2.0, 0, 1.9),
        row("a", 2.0, 1, 2.5),
        row("a", 4.0, 0, 1.0),
        row("a", 4.0, 1, None),
        row("b", 1.0, 0, None),
    ]
    (only,) = comparison.variants(rows)  # a rate with a failed run is no choice
    assert only.learning_rate == 1.0 and only.at_edge and only.failed == 1
    assert only.final.tolist() == [2.0, 2.2]
    assert only.losses.mean(axis=0).tolist() == [3.1, 2.1]


@workers_here()
def test_the_job_trains_draws_and_knows_when_it_is_done(tmp_path, capsys):
    text = tmp_path / "text"
    text.mkdir()
    for i in range(40):
        (text / f"{i}.txt").write_text(" ".join(f"word{(i * k) % 17}" for k in range(60)))
    settings = {
        "data.source": "text",
        "data.path": text,
        "data.cache_dir": tmp_path / "cache",
        "data.heldout_fraction": 0.2,
        "model.depth": 1,
        "model.width": 16,
        "model.num_heads": 2,
        "model.seq_len": 16,
        "train.steps": 6,
        "train.batch_size": 4,
        "train.evaluations": 2,
        "compare.variants": "adamw: learning_rate=1e-2,sam: sam_rho=0.1 learning_rate=1e-2",
        "compare.learning_rates": "1,",
        "compare.seeds": "0,1",
        "sweep.workers": 1,
        "report.formats": "png,",
        "report.dpi": 50,
    }
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    command = [
        "gptjax",
        "--config=experiments/optimizer_comparison.py",
        f"--workdir={tmp_path / 'run'}",
        *flags,
    ]
    assert main(command) == 0
    assert "adamw" in capsys.readouterr().out
    rows = json.loads((tmp_path / "run" / "compare.json").read_text())["rows"]
    assert [row["status"] for row in rows] == ["done"] * 4
    assert rows[2]["flops"] == pytest.approx(2 * rows[0]["flops"])  # two gradients
    assert {path.name for path in (tmp_path / "run" / "figures").iterdir()} == {
        "loss_tokens.png",
        "loss_time.png",
    }
    assert main(command) == 0
    assert "Plan" not in capsys.readouterr().out
