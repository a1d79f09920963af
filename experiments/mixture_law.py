"""The best mixture of sources, from a table of mixtures and the losses that they gave.

    python -m gptjax.main --config=experiments/mixture_law.py \
        --config.mixture_law.table=mixtures.csv --config.mixture_law.targets=loss

Columns that begin with `weight_` are the sources. Four forms of the law are tried by
cross-validation; the best mixture comes with an interval for every weight, in mixture.json and
figures under --workdir (default runs/mixture_law). 512 mixtures of 17 sources take half a minute on
two cores.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A fit of somebody's table: no corpus, no training."""
    config = default_config()
    config.experiment = "mixture_law"
    config.job = "mixture_law"
    return config
