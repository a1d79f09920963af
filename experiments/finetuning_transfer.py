"""What pre-training is worth in tokens of the data that one tunes on.

    python -m gptjax.main --config=experiments/finetuning_transfer.py --workdir=runs/transfer

Models of three widths learn the standard library's docstrings from 1,024 to 65,536 bytes, from
scratch and after its code, each stopped early. The effective data transferred is fitted as
D_T = k D_F^α N^β (Hernandez et al. 2021). Five minutes of processor time on an AMD EPYC; laws.json
has the law, docs/alignment.md what to expect.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two layers; the widths are those of `finetuning_transfer.widths`."""
    config = default_config()
    config.experiment = "finetuning_transfer"
    config.job = "finetuning_transfer"
    config.data.heldout_fraction = 0.08
    config.model.depth = 2
    config.model.num_heads = 2
    config.model.seq_len = 64
    config.model.positions = "rotary"
    config.train.steps = 1000
    config.train.batch_size = 16
    config.train.evaluations = 1
    config.optim.learning_rate = 5e-3
    return config
