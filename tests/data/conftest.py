"""Small texts and a cache folder for the tests of gptjax.data."""

import random
from pathlib import Path

import pytest

from gptjax.data import DataConfig
from gptjax.fields import make as make_section
from gptjax.fields import nested

WORDS = [
    "the",
    "of",
    "and",
    "in",
    "que",
    "für",
    "naïve",
    "東京",
    "scaling",
    "don't",
    "42",
    "3.14\n",
]


def write_texts(folder: Path, count: int, *, words: int = 60, seed: int = 0) -> list[str]:
    """`count` different UTF-8 files in `folder`; returns their texts."""
    rng = random.Random(seed)
    folder.mkdir(parents=True, exist_ok=True)
    texts = []
    for number in range(count):
        texts.append(f"{number}: " + " ".join(rng.choices(WORDS, k=words)) + "\n")
        (folder / f"{number:04}.txt").write_text(texts[-1])
    return texts


@pytest.fixture
def config(tmp_path):
    """Makes a DataConfig, from dotted keys too, whose cache is in the test's own folder."""

    def make(**settings) -> DataConfig:
        settings = {"cache_dir": str(tmp_path / "cache"), **settings}
        return make_section(DataConfig, nested(settings), "data")

    return make


@pytest.fixture
def texts(tmp_path):
    """A folder of 80 small text files."""
    write_texts(tmp_path / "texts", 80)
    return tmp_path / "texts"


@pytest.fixture
def write():
    """The function that writes small text files into a folder."""
    return write_texts
