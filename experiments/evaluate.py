"""Scores of a model on texts and tasks.

    python -m gptjax.main --config=experiments/evaluate.py --config.evaluate.model=DIR \
        --config.evaluate.tasks=perplexity,needle,memorization
    python -m gptjax.main --config=experiments/evaluate.py --config.evaluate.model=DIR \
        --config.evaluate.tasks=my_task.jsonl --config.evaluate.shots=0,1,5

DIR is a run of job=train, a converted folder or one of Hugging Face's. Without one, a model of 0.4
million parameters is trained on the standard library first. Writes scores.json with every item,
figures and report.html under --workdir (default runs/evaluate).
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """A small model of bytes, for when none is named."""
    config = default_config()
    config.experiment = "evaluate"
    config.job = "evaluate"
    config.data.source = "python-stdlib"
    config.model.update(
        depth=3,
        width=96,
        num_heads=6,
        seq_len=256,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.learning_rate = 4e-3
    config.optim.schedule = "wsd"
    config.train.batch_size = 8
    config.train.tokens = 1_000_000
    return config
