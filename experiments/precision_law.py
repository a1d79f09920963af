"""What a bit is worth: the loss that quantization adds, against size, tokens and bits.

    python -m gptjax.main --config=experiments/precision_law.py

Sizes on a grid of token budgets with two seeds, python-stdlib by bytes. When a cell is trained, its
weights are rounded to 8, 6, 4 and 3 bits in groups of 16 and scored on the same held-out text. To
the added losses the law of Kumar et al. (2024), C D^gamma_D N^-gamma_N exp(-P / gamma_P), is
fitted, with intervals that resample cells, and the cells with the most tokens per parameter are
predicted from the others. No download, no accelerator; about three minutes on two idle cores.
docs/quantization.md has the figure.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Five widths on five token budgets, with two seeds each."""
    config = default_config()
    config.experiment = "precision_law"
    config.job = "precision_law"
    config.data.update(source="python-stdlib", heldout_fraction=0.006)
    config.model.update(
        depth=2,
        seq_len=64,
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
        tokens=(2.0**16, 2.0**17, 2.0**18, 2.0**19, 2.0**20),
        seeds=(0, 1),
        width_step=4,
        head_width=16,
        rule="demo_trunk",
        part_tokens=512,
        quantize_bits=(8, 6, 4, 3),
    )
    config.quantize.group = 16
    config.train.eval_batch_size = 16
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config
