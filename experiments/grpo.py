"""Group-relative policy optimisation of a model folder by rewards that a program checks.

    python -m gptjax.main --config=experiments/grpo.py --config.model_folder=DIR \\
        --config.data.path=prompts.jsonl --config.align.reward=number --workdir=runs/grpo

A line of the file is {"prompt": …, "answer": …}. `--config.align.method=ppo` with
`--config.align.reward_folder=runs/reward --config.align.beta=0.1` is PPO by a
reward model. docs/alignment.md has both, and what was measured.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """100 rounds of 16 prompts with 8 answers each, two updates a round."""
    config = default_config()
    config.experiment = "grpo"
    config.job = "align"
    config.data.heldout_fraction = 0.1
    config.align.method = "grpo"
    config.train.steps = 200
    config.train.batch_size = 64
    config.optim.learning_rate = 3e-5
    config.optim.schedule = "constant"
    config.optim.weight_decay = 0.0
    return config
