"""A model trained on short texts, read beyond them by each method of rotary positions and by ALiBi.

    python -m gptjax.main --config=experiments/context_extension.py

Two models of bytes are trained at 64 tokens on code of the standard library with needles between
its bytes, one with rotary positions and one with ALiBi, and read at up to 256 as they are. Writes
context_extension.json and figures/context_extension.png: loss by position, and needles found by
length and by depth.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two small models at 64 tokens."""
    config = default_config()
    config.experiment = "context_extension"
    config.job = "context_extension"
    config.model.update(
        depth=2,
        width=64,
        num_heads=4,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.learning_rate = 6e-3
    config.optim.schedule = "wsd"
    config.train.batch_size = 16
    config.train.tokens = 1_000_000
    return config
