"""IsoFLOP profiles on the source text of Python's standard library, and the laws they give.

    python -m gptjax.main --config=experiments/chinchilla_sweep.py

No download, no accelerator.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Seven budgets over one and a half decades, six sizes at each."""
    config = default_config()
    config.experiment = "chinchilla_sweep"
    config.job = "sweep"
    config.data.source = "python-stdlib"
    config.model.update(
        depth=3,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.schedule = "wsd"
    config.sweep.plan = "isoflop"
    config.sweep.budgets = (1.2e11, 2e11, 3.2e11, 5.2e11, 8.4e11, 1.4e12, 3.8e12)
    config.sweep.sizes = 6
    config.sweep.width_step = 4
    config.sweep.head_width = 16
    config.sweep.rule = "demo_trunk"
    config.sweep.part_tokens = 512
    config.train.eval_batch_size = 16
    return config
