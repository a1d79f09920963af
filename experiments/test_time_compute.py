"""A larger model, or more samples? Sums of two numbers with known answers.

    python -m gptjax.main --config=experiments/test_time_compute.py

Five small models are trained on sums, 64 answers are drawn from each to 200 held-out questions. At
the same cost of answers (parameters times samples) smaller models with more samples are compared
with the largest, where a checker finds the right one of k, by majority and by likelihood; and laws
of the share solved against samples and size are fitted and held out. docs/generation.md has the
figure. No download, no accelerator.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two layers of five widths on 8,000 of the 10,000 sums of numbers below 100."""
    config = default_config()
    config.experiment = "test_time_compute"
    config.job = "test_time_compute"
    config.data.update(source="arithmetic", heldout_fraction=0.04)
    config.data.arithmetic.update(digits=2, problems=8_000)
    config.model.update(
        depth=2,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "wsd"
    config.train.batch_size = 16
    config.train.tokens = 1_000_000
    return config
