"""TFDS without TensorFlow: real small datasets, written here."""

import subprocess
import sys

import numpy as np
import pytest

from gptjax.data import load
from gptjax.errors import UserError

tfds = pytest.importorskip("tensorflow_datasets")
pytest.importorskip("array_record")


class TinyTexts(tfds.core.GeneratorBasedBuilder):
    """The files of a folder, as a dataset."""

    VERSION = tfds.core.Version("1.0.0")
    texts: tuple[str, ...] = ()

    def _info(self):
        features = {"text": tfds.features.Text(), "length": tfds.features.Scalar(np.int64)}
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(60), "test": self._generate_examples(5)}

    def _generate_examples(self, count):
        for number, text in enumerate(self.texts[:count]):
            yield number, {"text": text, "length": len(text)}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    """The data directory of a prepared dataset `tiny_texts`, and its 60 texts."""
    folder = tmp_path_factory.mktemp("tfds")
    TinyTexts.texts = tuple(f"{i}: naïve 東京 " + "the law " * 9 for i in range(60))
    tfds.disable_progress_bar()
    TinyTexts(data_dir=str(folder), file_format="array_record").download_and_prepare()
    return folder, TinyTexts.texts


@pytest.fixture
def wanted(dataset, config):
    def make(**settings):
        base = {"source": "tfds", "tfds.name": "tiny_texts", "path": str(dataset[0])}
        return config(**{**base, "heldout_fraction": 0.2, **settings})

    return make


def test_texts_of_a_split(dataset, wanted):
    corpus = load(wanted(), seq_len=16)
    found = corpus.decode(corpus.train).decode() + corpus.decode(corpus.heldout).decode()
    assert sorted(found) == sorted("".join(dataset[1]))
    assert corpus.report["documents_read"] == 60
    assert load(wanted(), seq_len=16).fingerprint == corpus.fingerprint
    part = load(wanted(**{"tfds.split": "train[:50%]"}), seq_len=16)
    assert part.report["documents_read"] == 30
    assert part.fingerprint != corpus.fingerprint


def test_read_in_a_process_without_tensorflow_and_the_builder(dataset, tmp_path):
    """Elsewhere nobody knows the class: TFDS reads the dataset from its files."""
    code = (
        "import sys\n"
        "from gptjax.data import DataConfig, load\n"
        "from gptjax.data.sources.tfds import TfdsConfig\n"
        "corpus = load(DataConfig(source='tfds', tfds=TfdsConfig(name='tiny_texts'),"
        f" path={str(dataset[0])!r}, cache_dir={str(tmp_path)!r}, heldout_fraction=.2),"
        " seq_len=16)\n"
        "print(corpus.report['documents_read'], 'tensorflow' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "60 False\n", done.stderr


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tfds.name": ""}, r"data.tfds.name='' names no dataset"),
        (
            {"tfds.name": "no_such_texts"},
            r"data.tfds.name='no_such_texts' is not a dataset .*data.path=",
        ),
        ({"tfds.name": "no_such_texts", "path": ""}, r"in the default data directory"),
        ({"tfds.name": "tiny_texts:2.0.0"}, r"data.tfds.name='tiny_texts:2.0.0' is not a dataset"),
        ({"tfds.name": "tiny_texts/x"}, r"data.tfds.name='tiny_texts/x' is not a dataset"),
        ({"tfds.name": "a b/../c"}, r"data.tfds.name='a b/../c' is not a dataset"),
        (
            {"tfds.split": "valid"},
            r"data.tfds.split='valid' cannot be read .* splits are: test, train",
        ),
        ({"tfds.split": "train[:"}, r"data.tfds.split='train\[:' cannot be read"),
        ({"text_field": "txt"}, r"data.text_field='txt' is not a feature .*did you mean text\?"),
        ({"text_field": "length"}, r"data.text_field='length' .* not a text; name a feature"),
    ],
)
def test_mistakes(wanted, settings, words):
    with pytest.raises(UserError, match=words):
        load(wanted(**settings), seq_len=16)


def test_without_the_library_the_extra_is_named(wanted, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(UserError, match=r"needs tensorflow_datasets, .* install 'gptjax\[tfds\]'"):
        load(wanted(), seq_len=16)


def test_dataset_that_needs_tensorflow(tmp_path, dataset, wanted):
    """One that says it was prepared as tfrecord is refused with the command that mends it."""
    info = dataset[0] / "tiny_texts" / "1.0.0" / "dataset_info.json"
    folder = tmp_path / "tiny_texts" / "1.0.0"
    folder.mkdir(parents=True)
    text = info.read_text().replace("array_record", "tfrecord")
    (folder / "dataset_info.json").write_text(text)
    (folder / "features.json").write_text(info.with_name("features.json").read_text())
    with pytest.raises(UserError, match=r"only TensorFlow reads; .*--file_format=array_record"):
        load(wanted(path=str(tmp_path)), seq_len=16)
