"""What a budget buys by a law that was fitted before.

    python -m gptjax.main --config=experiments/predict.py \
        --config.predict.laws=runs/chinchilla_sweep/laws.json --config.predict.flops=1e14

Prints the compute-optimal parameters, tokens and loss at each budget, with intervals. Seconds.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A prediction from a saved law: reads laws.json, writes nothing."""
    config = default_config()
    config.experiment = "predict"
    config.job = "predict"
    return config
