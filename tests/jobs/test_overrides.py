"""Command lines that are right: every way to write a value gives the value."""

import operator
from pathlib import Path

import pytest

from gptjax import config as configs
from gptjax.experiment import load, override, setting_types
from gptjax.fields import flattened
from gptjax.main import Command, main, parse

SWEEP = Path(__file__).parents[2] / "experiments" / "chinchilla_sweep.py"

VALUES = {
    "sweep.budgets=1e12": (1e12,),
    "sweep.budgets=(1e12,)": (1e12,),
    "sweep.budgets=1e12,3e12": (1e12, 3e12),
    "sweep.budgets=(1e12, 3e12)": (1e12, 3e12),
    "sweep.budgets=[1000000000000,3]": (1e12, 3.0),
    "sweep.widths=": (),
    "sweep.widths=()": (),
    "sweep.widths=16,32": (16, 32),
    "fit.approaches=isoflop,parametric": ("isoflop", "parametric"),
    "optim.no_decay=('norm', 'a{1,2}')": ("norm", "a{1,2}"),
    "train.tokens=1e6": 1_000_000,
    "train.tokens=1_000_000": 1_000_000,
    "optim.weight_decay=1": 1.0,
    "fit.e_fixed=none": None,
    "fit.e_fixed=1": 1.0,
    "train.wandb=True": True,
    "train.wandb=false": False,
    "train.wandb": True,
    "data.path=a b,c=(d": "a b,c=(d",
    "job=plan": "plan",
}


def setup_of(*flags):
    command = parse(["gptjax", f"--config={SWEEP}", *flags])
    return configs.make_config(override(load(command.experiment), command.overrides))


def value_of(setup, path):
    return operator.attrgetter(path if "." in path else f"general.{path}")(setup)


@pytest.mark.parametrize("text", VALUES)
def test_value(text):
    found = value_of(setup_of(f"--config.{text}"), text.partition("=")[0])
    assert found == VALUES[text] and type(found) is type(VALUES[text])


def test_flags_may_be_separate_words():
    expected = Command("e.py", (("sweep.sizes", "7"), ("train.wandb", None)), "there")
    words = ["--config", "e.py", "--config.sweep.sizes", "7", "--config.train.wandb"]
    assert parse(["gptjax", *words, "-workdir", "there"]) == expected


def test_a_negative_number_is_a_value():
    assert parse(["g", "--config=e.py", "--config.a.b", "-1"]).overrides == (("a.b", "-1"),)


def test_the_last_one_wins_and_lists_grow():
    setup = setup_of(
        "--config.sweep.sizes=5",
        "--config.sweep.sizes=6",
        "--config.sweep.budgets=1e9",
        "--config.sweep.budgets=2e9,3e9",
    )
    assert setup.sweep.sizes == 6
    assert setup.sweep.budgets == (1e9, 2e9, 3e9)


def test_nothing_else_changes():
    before, after = (
        configs.to_mapping(setup_of()),
        configs.to_mapping(setup_of("--config.fit.seed=3")),
    )
    before["fit"]["seed"] = 3
    assert before == after


def test_every_setting_has_a_type():
    config = configs.default_config().to_dict()
    paths = [name for name in config if name not in configs.sections()]
    paths += [f"{name}.{key}" for name in configs.sections() for key in flattened(config[name])]
    assert sorted(setting_types()) == sorted(paths)


def test_argument_of_get_config(tmp_path):
    (tmp_path / "e.py").write_text("def get_config(size): return {'model': {'depth': int(size)}}\n")
    assert configs.make_config(load(f"{tmp_path / 'e.py'}:7")).model.depth == 7


def test_help(capsys):
    assert main(["gptjax", "--help"]) == 0
    assert "--config=FILE" in capsys.readouterr().out
