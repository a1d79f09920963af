"""From a base to an aligned model on a task with known answers, each method beside the others.

    python -m gptjax.main --config=experiments/align.py --workdir=runs/align

A right answer is six capitals. A base of texts with letters of either case, supervised
fine-tuning, preferences drawn from it, a reward model, best of 16, PPO by that reward model, DPO on
the same preferences, GRPO by the program that knows the answers, and constitutional AI, in which
the model revises and judges its own answers. It takes three and a half minutes of processor time,
and the share of right places rises from .40 (base) over .62 (fine-tuned) to .99 (PPO, GRPO) and .91
(constitutional). docs/alignment.md has the table.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two layers of width 64."""
    config = default_config()
    config.experiment = "align"
    config.job = "align_task"
    config.data.heldout_fraction = 0.15
    config.model.depth = 2
    config.model.width = 64
    config.model.num_heads = 4
    config.model.seq_len = 64
    config.model.positions = "rotary"
    config.train.steps = 300
    config.train.batch_size = 32
    config.train.evaluations = 1
    config.optim.learning_rate = 3e-3
    config.optim.weight_decay = 0.0
    config.align.prompts = 32
    config.align.group = 8
    return config
