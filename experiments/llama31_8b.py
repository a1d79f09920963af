"""Llama 3.1 8B, with a mesh that fits a slice of 64 chips.

    python -m gptjax.main --config=experiments/llama31_8b.py --config.job=compile

compiles the training step for the slice named below, says what one chip needs and how long a step
takes at the chip's published rates; it wants `pip install 'gptjax[tpu]'` and no TPU, and took 322
seconds on 2 CPU cores. `--config.job=plan_mesh` compares this mesh with the others. To train, start
the same command on the slice without the job and with your text, as docs/scaling_up.md shows;
nobody has trained it here. The learning rate is that of AI@Meta 2024 (arXiv:2407.21783), table 3;
8,192 tokens is its context until the last 800 billion; the warm-up of 8,000 steps and batches of 4M
tokens are those of its 405B (section 3.4.1), the tokens those of the family.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """The published model on its slice, at the context of pre-training."""
    config = default_config()
    config.experiment = "llama31_8b"
    config.job = "train"
    config.compile.target = "v6e-64"
    model = {**dataclasses.asdict(models.preset("llama3.1-8b")), "preset": ""}
    model["seq_len"] = 8192
    config.model.update({**model, "compute_dtype": "bfloat16", "remat": "block", "layers": "scan"})
    config.mesh.update({"data": 1, "fsdp": 64})
    config.train.update({"batch_size": 512, "micro_batches": 8, "tokens": 15_000_000_000_000})
    config.optim.learning_rate = 3e-4
    config.optim.warmup_fraction = 8000 * 512 * 8192 / 15e12
    return config
