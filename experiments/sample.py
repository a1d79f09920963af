"""Text from a model.

    python -m gptjax.main --config=experiments/sample.py --config.sample.model=DIR \
        --config.sample.prompt="def main("

DIR is a run of job=train, a converted or downloaded folder, or a sweep, whose best cell is trained
again. Without --config.sample.model a small model is trained first on the source of Python's
standard library, about a minute on two cores, and kept in the workdir.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A sample; the other sections are those of the model that is trained where none is named."""
    config = default_config()
    config.experiment = "sample"
    config.job = "sample"
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
    config.sample.preset = "gpt3"
    return config
