"""A source and a tokenizer of one's own: one value each, chosen by a config like any other."""

import json

import numpy as np
import pytest

from gptjax import config as configs
from gptjax.data import sources, tokenizers
from gptjax.data.sources import Documents, Source
from gptjax.data.tokenizers import TokenizerKind
from gptjax.errors import UserError


class LetterTokenizer:
    """One id for each letter of an alphabet; other characters are dropped."""

    def __init__(self, letters):
        self._letters = letters
        self.end_of_document = len(letters)
        self.vocab_size = len(letters) + 1

    def encode(self, documents):
        for document in documents:
            ids = [self._letters.find(letter) for letter in document.decode()]
            yield np.array([number for number in ids if number >= 0], np.uint32)

    def decode(self, ids):
        return "".join(self._letters[i] for i in ids if i != self.end_of_document).encode()


def train_letters(documents, own, config):
    return json.dumps("".join(sorted({c for text in documents for c in text.decode()}))).encode()


LETTERS = TokenizerKind(
    "letters",
    read=lambda content, path, own, end: LetterTokenizer(json.loads(content)),
    file="letters.json",
    train=train_letters,
)


def count_up(own, config, seq_len):
    numbers = [f"{number} follows {number - 1}. ".encode() for number in range(1, 400)]
    return Documents(stamp="counting", read=lambda: iter(numbers), field="data.source='counting'")


@pytest.fixture
def registered():
    sources.register(Source("counting-up", count_up))
    tokenizers.register(LETTERS)
    yield
    for name in ("counting-up", "counting_up"):
        del sources.SOURCES[name]
    del tokenizers.TOKENIZERS["letters"]


def test_a_config_chooses_them(registered, tmp_path):
    config = configs.default_config()
    config.data.source = "counting-up"
    config.data.tokenizer = "letters"
    config.data.heldout_fraction = 0.2
    config.data.cache_dir = str(tmp_path)
    config.model.seq_len = 16
    setup = configs.make_config(config)
    for _ in range(2):  # built, then from the cache
        corpus = configs.load_corpus(setup)
        assert corpus.vocab_size == len(set("0123456789 folws.")) + 1
        assert corpus.report["documents_read"] == 399
        assert b"17 follows 16. " in corpus.decode(corpus.train) + corpus.decode(corpus.heldout)


def test_their_names_are_among_the_choices(registered):
    config = configs.default_config()
    config.data.source = "counting-op"
    with pytest.raises(UserError, match="did you mean counting-up"):
        configs.make_config(config)
    config.data.source, config.data.tokenizer = "text", "leters"
    with pytest.raises(UserError, match="did you mean letters"):
        configs.make_config(config)


@pytest.mark.parametrize("old", ["zipf_tokens", "bpe_level", "document_bytes", "name"])
def test_a_key_of_before_is_refused_with_the_new_one(old):
    from gptjax.data import DataConfig
    from gptjax.experiment import override
    from gptjax.fields import former

    new = former(DataConfig)[old]
    with pytest.raises(UserError, match=rf"config.data.{old} is not .*data\.{new}"):
        override(configs.default_config().to_dict(), [(f"data.{old}", "1")])
