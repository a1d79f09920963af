"""A decoder of a few thousand parameters in a folder, and files of examples."""

import dataclasses

import aligned
import compiled_model
import pytest

from gptjax import convert, data
from gptjax.convert.own_folder import KeptTokenizer


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """The folder of a model with the tokenizer of bytes."""
    return saved(aligned.CONFIG, tmp_path_factory.mktemp("align") / "base")


@pytest.fixture(scope="session")
def deep(tmp_path_factory):
    """The same with two layers, for what tells them apart."""
    config = dataclasses.replace(aligned.CONFIG, depth=2)
    return saved(config, tmp_path_factory.mktemp("align") / "deep")


def saved(config, folder):
    params = compiled_model.drawn(config)
    convert.save_model(folder, config, params, KeptTokenizer(data.DataConfig()))
    return folder


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    """Twenty prompts with the answer that says their letter three times."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    letters = "abcdefghijklmnopqrst"
    return aligned.write(path, [{"prompt": f"say {c}: ", "response": c * 3} for c in letters])


@pytest.fixture(scope="session")
def preferences(tmp_path_factory):
    """Twenty-four prompts of which the answer of plus signs is preferred."""
    path = tmp_path_factory.mktemp("preferences") / "preferences.jsonl"
    lines = [
        {"prompt": f"say {c}: ", "chosen": "+" * n, "rejected": "-" * n}
        for c in "abcdefghijkl"
        for n in (2, 3)
    ]
    return aligned.write(path, lines)
