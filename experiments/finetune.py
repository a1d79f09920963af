"""Fine-tuning of a model folder on your examples, with loss on the answers alone.

    python -m gptjax.main --config=experiments/finetune.py --config.model_folder=DIR \\
        --config.data.path=pairs.jsonl --workdir=runs/tuned

DIR is a run of job=train, a converted folder or one of Hugging Face's. A line of the file is
{"prompt": …, "response": …} or {"messages": [{"role": …, "content": …}, …]}. A tenth of the
prompts is held out. `--config.optim.frozen` keeps parameters as they are,
`--config.optim.multipliers="blocks=0.1 0.3 1"` gives the layers learning rates of their own.
docs/alignment.md has all methods and what was measured.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """300 steps of 16 rows at a tenth of a usual pre-training rate."""
    config = default_config()
    config.experiment = "finetune"
    config.job = "finetune"
    config.data.heldout_fraction = 0.1
    config.train.steps = 300
    config.train.batch_size = 16
    config.train.evaluations = 5
    config.optim.learning_rate = 1e-4
    config.optim.weight_decay = 0.0
    return config
