"""The same small GPT with every optimizer: held-out loss against tokens and against time.

    python -m gptjax.main --config=experiments/optimizer_comparison.py

No download, no accelerator. Each optimizer is trained at three learning rates a factor of three
apart with two seeds, its six runs side by side in one program, and shown at the rate with the
lowest mean loss; a rate at the edge of its grid is marked so in the table. A time is the share of a
run in that of its program.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Two layers of width 64 on bytes of Python's standard library."""
    config = default_config()
    config.experiment = "optimizer_comparison"
    config.job = "compare"
    config.data.update(source="python-stdlib", heldout_fraction=0.005)
    config.model.update(
        depth=2,
        width=64,
        num_heads=4,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="relu",
        use_bias=False,
        init_scale=0.1,
    )
    config.train.update(batch_size=16, steps=300, evaluations=8, eval_batch_size=64)
    config.optim.update(warmup_fraction=0.1, schedule="cosine")
    config.compare.variants = (
        "adamw: name=adamw learning_rate=1e-2",
        "adam8bit: name=adam8bit learning_rate=1e-2",
        "muon: name=muon b1=0.95 learning_rate=3e-2",
        "lion: name=lion b2=0.99 learning_rate=3e-3",
        "adafactor: name=adafactor learning_rate=3e-2",
        "schedule_free: name=schedule_free schedule=constant learning_rate=1e-2",
        "sgd: name=sgd learning_rate=0.1",
        "sam over adamw: name=adamw sam_rho=0.05 learning_rate=1e-2",
    )
    config.compare.seeds = (0, 1)
    config.sweep.stack = 6
    return config
