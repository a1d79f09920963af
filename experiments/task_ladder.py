"""A ladder of sizes scored on a task, and the largest size forecast from the smaller ones.

    python -m gptjax.main --config=experiments/task_ladder.py

Five sizes on four budgets of tokens of the generated language `zipf-facts`. Each cell is asked at
its end for the attributes of 400 entities, from the most popular to the rarest, with three wrong
answers beside the right one; a guess is .25. The scores stand in its record and in runs.csv. The
scores of the largest size are forecast from the four others and compared with what was measured. 20
cells, 4.4e11 FLOPs, 85 s of processor time; four of four scores were inside. No download, no
accelerator.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Five widths on four token budgets."""
    config = default_config()
    config.experiment = "task_ladder"
    config.job = "task_ladder"
    config.data.source = "zipf-facts"
    config.data.zipf_facts.base = 64
    config.data.zipf_facts.relations = 2
    config.model.update(
        depth=2,
        seq_len=40,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.15,
    )
    config.sweep.update(
        plan="grid",
        widths=(8, 12, 16, 24, 32),
        tokens=(2.0**16, 2.0**17, 2.0**18, 2.0**19),
        width_step=4,
        head_width=16,
        tasks=("facts",),
    )
    config.evaluate.count = 400
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config
