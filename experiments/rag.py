"""Answers from documents, with their sources named: retrieval-augmented generation.

    python -m gptjax.main --config=experiments/rag.py --config.rag.model=DIR \
        --config.rag.documents=FOLDER --config.rag.question="Who wrote it?"

DIR is a run of job=train, or a converted or downloaded folder with its tokenizer. FOLDER holds
text, JSON lines, Parquet or WARC; its index is kept in the workdir (--config.rag.index elsewhere)
and belongs to the model's tokenizer. Without a model the small one of experiments/sample.py is
trained first, about a minute on two cores, and asked about docs/: it names sources, and is too
small to answer from them.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A question to the documentation; the other sections are those of a model that is trained."""
    config = default_config()
    config.experiment = "rag"
    config.job = "rag"
    config.data.source = "python-stdlib"
    config.model.update(
        depth=3,
        width=96,
        num_heads=6,
        seq_len=256,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "wsd"
    config.train.batch_size = 8
    config.train.tokens = 1_000_000
    config.rag.documents = "docs/*.md"
    config.rag.passage_words = 40
    config.rag.question = "How does continuous batching share prefixes?"
    config.rag.sampling.max_tokens = 32
    return config
