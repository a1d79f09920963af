"""Low-rank adapters for a model folder, in PEFT's layout, over a base that may be quantized.

    python -m gptjax.main --config=experiments/lora.py --config.model_folder=DIR \\
        --config.data.path=pairs.jsonl --workdir=runs/adapter

The workdir gets `adapter/`, which PEFT loads, and `model/` with the adapter merged. Where DIR was
made by `experiments/quantize.py` with `--config.quantize.method=nf4` this is QLoRA: the base stays
in four bits. `--config.train.param_dtype=bfloat16` stores the adapters in 16 bits.
docs/alignment.md has what was measured.
"""

from ml_collections import ConfigDict

from gptjax.config import default_config


def get_config() -> ConfigDict:
    """Rank 16 on all matrices inside the layers, at ten times the rate of whole matrices."""
    config = default_config()
    config.experiment = "lora"
    config.job = "finetune"
    config.data.heldout_fraction = 0.1
    config.finetune.lora.rank = 16
    config.finetune.lora.targets = ("blocks/",)
    config.train.steps = 300
    config.train.batch_size = 16
    config.train.evaluations = 5
    config.optim.learning_rate = 1e-3
    config.optim.weight_decay = 0.0
    return config
