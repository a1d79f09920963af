"""A corpus of a few kilobytes and a model of a few thousand parameters."""

import pytest

from gptjax import data
from gptjax.models import ModelConfig
from gptjax.optim import OptimConfig
from gptjax.train import RunSpec, Session, TrainConfig


@pytest.fixture(scope="session")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    for i in range(40):
        words = " ".join(f"word{(i * k) % 23} {k % 7}" for k in range(60))
        (folder / f"{i}.txt").write_text(f"document {i}\n{words}\n")
    config = data.DataConfig(
        source="text",
        path=str(folder),
        heldout_fraction=0.2,
        cache_dir=str(tmp_path_factory.mktemp("cache")),
    )
    return data.load(config, seq_len=16)


@pytest.fixture(scope="session")
def spec(corpus):
    model = ModelConfig(
        depth=1,
        width=16,
        num_heads=2,
        seq_len=16,
        vocab_size=corpus.vocab_size,
        positions="rotary",
        mlp="relu",
        norm="rmsnorm",
        use_bias=False,
        init_scale=0.1,
    )
    return RunSpec(
        model=model, optim=OptimConfig(learning_rate=1e-2), batch_size=4, steps=24, seed=3
    )


@pytest.fixture(scope="session")
def session(corpus):
    return Session(corpus, TrainConfig())
