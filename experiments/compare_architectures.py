"""Five architectures at equal FLOPs: a law for each, and what a FLOP is worth beside GPT-2's.

    python -m gptjax.main --config=experiments/compare_architectures.py

No download, no accelerator. Every architecture finds its own learning rate on its two smallest
sizes first, is trained at four sizes and two seeds at each of three budgets, and gets a law; the
report compares the laws. A mixture's FLOPs are those of the experts that a token passes. Mamba has
twice as many layers, each about half of one with attention and a feed-forward, as in its paper; the
hybrid has one layer with attention in three and no positions. On an accelerator seeds and learning
rates of a size run side by side (sweep.stack).
"""

from ml_collections import ConfigDict

from gptjax.config import default_config

ARCHITECTURES = (
    "GPT-2: model.norm=layernorm model.positions=learned model.mlp=gelu_tanh model.use_bias=true "
    "model.mlp_width=192",
    "Llama: model.tied_head=false",
    "Mixtral: model.tied_head=false model.mlp_pattern=experts model.experts.count=4 "
    "model.experts.per_token=2 model.experts.width=64 model.experts.balance_loss=0.01 "
    "sweep.optimum_params=9e4 sweep.optimum_exponent=0.4",
    "Mamba: model.layer_pattern=ssm model.mlp_pattern=none model.positions=none model.depth=6",
    "Mamba + attention: model.layer_pattern=ssm,global,ssm model.positions=none",
)


def get_config() -> ConfigDict:
    """Three budgets, four sizes, two seeds, five architectures."""
    config = default_config()
    config.experiment = "compare_architectures"
    config.job = "compare_sweeps"
    config.data.update(source="python-stdlib", heldout_fraction=0.01)
    config.model.update(
        depth=3,
        width=48,
        mlp_width=128,
        seq_len=64,
        norm="rmsnorm",
        positions="rotary",
        mlp="swiglu",
        use_bias=False,
        init_scale=0.15,
    )
    config.model.mixer.ssm.state = 8
    config.optim.schedule = "wsd"
    config.compare.sweeps = ARCHITECTURES
    config.sweep.update(
        budgets=(7e10, 1.4e11, 2.8e11),
        sizes=4,
        seeds=(0, 1),
        width_step=4,
        head_width=16,
        rule="demo_trunk",
        tune=True,
        tune_sizes=2,
        tune_factors=(0.5, 1.0, 2.0, 4.0),
    )
    config.fit.update(approaches=("parametric",), diagnostics=False, holdout_budgets=0)
    return config
