"""Several models as one: their predictions combined, or their parameters averaged.

    python -m gptjax.main --config=experiments/ensemble.py --workdir=runs/both \\
        --config.ensemble.models=runs/A,runs/B --config.ensemble.combination=em

Weights are fitted on the first part of the held-out text of `data` and the loss is measured on what
follows; a soup is written as a model folder. Seconds for models of a million parameters.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A mixture of predictions with weights by EM."""
    config = default_config()
    config.experiment = "ensemble"
    config.job = "ensemble"
    return config
