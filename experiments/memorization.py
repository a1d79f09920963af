"""What models of several sizes memorize of canaries planted into their text.

    python -m gptjax.main --config=experiments/memorization.py

Documents of the standard library with sentences "the code of NAME is DIGITS", each secret 1, 4, 16
or 64 times. Every size is trained on the same text; exposure is exact, the rank among all secrets.
Writes memorization.json and figures/memorization.png. 84 s of processor time.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Three widths on 240 KB of text, read about four times."""
    config = default_config()
    config.experiment = "memorization"
    config.job = "memorization"
    config.model.update(
        depth=2,
        num_heads=4,
        seq_len=128,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.learning_rate = 6e-3
    config.optim.schedule = "wsd"
    config.train.batch_size = 8
    config.train.tokens = 1_000_000
    return config
