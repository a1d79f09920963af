"""Scores of larger models from a table of scores of smaller ones.

    python -m gptjax.main --config=experiments/forecast.py --config.forecast.table=scores.csv \
        --config.forecast.params=7e9,13e9 --config.forecast.tokens=4e12,5e12

The table has params, tokens, <task>_acc and, where known, <task>_bpb, the loss of the right
answers; rows with one `run` are its checkpoints. Writes forecast.json and figures/forecast.png
under --workdir (default runs/forecast). Eight tasks of 24 runs with 18 checkpoints each take about
20 seconds on two cores.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Forecasts from somebody's table: no corpus, no training."""
    config = default_config()
    config.experiment = "forecast"
    config.job = "forecast"
    return config
