"""Flags that are told to be wrong before JAX is loaded: by the same sentence as after it."""

import pytest

from gptjax import early, setting_names
from gptjax.errors import UserError
from gptjax.experiment import setting_names as declared
from gptjax.fields import sections

PLAIN = (
    "import dataclasses\n"
    "from ml_collections import ConfigDict\n"
    "from gptjax.config import default_config\n"
    "def get_config() -> ConfigDict:\n"
    "    return default_config()\n"
)


def shipped():
    return setting_names.from_json(setting_names.FILE.read_text(encoding="utf-8"))


def wrong_names():
    """A letter too many in a key, the right key elsewhere, sections, and old and moved keys."""
    names = declared()
    some = [*names.types()][::17]  # a comparison with all names takes milliseconds
    yield from (name for key in some for name in (f"{key}z", f"nope.{key}"))
    yield from (f"data.{key.rpartition('.')[2]}" for key in some)
    yield from (*names.sections, *names.moved, "nope", "nope.nope", "model.", ".", "model.rope.x")
    for name, cls in names.sections.items():
        yield from (f"{name}.{inner}" for inner in sections(cls))
        yield from (f"{name}.{old}" for old in setting_names.former(cls))


def test_the_sentence_is_that_of_the_dataclasses():
    whole, early_ones = declared(), shipped()
    known = whole.types()
    assert early_ones.types().keys() == known.keys()
    for name in {*wrong_names()} - known.keys():
        assert setting_names.unknown(name, early_ones) == setting_names.unknown(name, whole), name


def test_a_wrong_key_of_a_plain_experiment_is_refused(tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    early.check(f"{tmp_path / 'plain.py'}:text", ["sweep.sizes", "model.rope.base", "job"])
    with pytest.raises(UserError, match="sizez is not a setting; did you mean sizes"):
        early.check(str(tmp_path / "plain.py"), ["sweep.sizes", "sweep.sizez"])


@pytest.mark.parametrize(
    "line",
    [
        "import toy_greet",
        "from gptjax import job",
        "from gptjax.config import default_config, job",
        "import gptjax.config",
        "from . import mixers",
        "import importlib",
        "exec(open('mixers.py').read())",
        "toy = __import__('toy_greet')",
        "def get_config(:",
    ],
)
def test_an_experiment_that_may_register_settings_is_run_first(tmp_path, line):
    (tmp_path / "own.py").write_text(f"{PLAIN}{line}\n")
    early.check(str(tmp_path / "own.py"), ["greet.name"])


def test_a_setting_that_is_being_added_is_known(tmp_path, monkeypatch):
    """The file of names is older than the sources then."""
    (tmp_path / "plain.py").write_text(PLAIN)
    text = setting_names.FILE.read_text(encoding="utf-8")
    assert text.count('"hang_seconds"') == 1
    (tmp_path / "old.json").write_text(text.replace('"hang_seconds"', '"earlier"'))
    monkeypatch.setattr(setting_names, "FILE", tmp_path / "old.json")
    early.check(str(tmp_path / "plain.py"), ["train.hang_seconds"])
