"""A ladder of sizes scored on tasks, and the largest size forecast from the smaller ones.

    python -m gptjax.main --config=experiments/task_ladder.py

Five sizes on three budgets of tokens, python-stdlib by bytes. Each cell is scored at its end on
small tasks made by rule; the scores stand in its record and in runs.csv. The forecast of the
largest size is made from the four others and compared with what was measured. No download, no
accelerator.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Five widths on three token budgets."""
    config = default_config()
    config.experiment = "task_ladder"
    config.job = "task_ladder"
    config.data.update(source="python-stdlib", heldout_fraction=0.004)
    config.model.update(
        depth=2,
        seq_len=128,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.optim.schedule = "wsd"
    config.sweep.update(
        plan="grid",
        widths=(12, 16, 24, 32, 48),
        tokens=(2.0**17, 2.0**18.5, 2.0**20),
        width_step=4,
        head_width=16,
        rule="demo_trunk",
        part_tokens=512,
        tasks=("completion", "agreement", "copying", "arithmetic"),
    )
    config.evaluate.count = 300
    config.train.eval_batch_size = 16
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config
