"""The gold reward lost by optimising against reward models of several amounts of data.

    python -m gptjax.main --config=experiments/reward_overoptimization.py --workdir=runs/gold

An answer is best with four capitals, which a program counts. Reward models learn that from 64 to
4,096 preferences, three of each amount; best of n and GRPO are run against each, and the laws of
Gao et al. (2022) are fitted to the gold reward by √KL. Six minutes of processor time on an AMD
EPYC; laws.json has the laws, docs/alignment.md what to expect.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two layers of width 48, for the policy and for every reward model."""
    config = default_config()
    config.experiment = "reward_overoptimization"
    config.job = "reward_overoptimization"
    config.data.heldout_fraction = 0.15
    config.data.mask_end_of_document = False  # so that the base's answers end
    config.model.depth = 2
    config.model.width = 48
    config.model.num_heads = 4
    config.model.seq_len = 32
    config.model.positions = "rotary"
    config.train.steps = 300
    config.train.batch_size = 32
    config.train.evaluations = 1
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.0
    config.align.prompts = 16
    config.align.group = 8
    config.align.eval_prompts = 8
    return config
