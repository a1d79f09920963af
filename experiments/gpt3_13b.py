"""GPT-3 13B, with a mesh that fits a slice of 128 chips.

    python -m gptjax.main --config=experiments/gpt3_13b.py --config.job=compile

compiles the training step for the slice named below, says what one chip needs and how long a step
takes at the chip's published rates; it wants `pip install 'gptjax[tpu]'` and no TPU, and took 219
seconds on 2 CPU cores. `--config.job=plan_mesh` compares this mesh with the others. To train, start
the same command on the slice without the job and with your text, as docs/scaling_up.md shows;
nobody has trained it here. Batch, learning rate, warm-up and tokens are those of Brown et al. 2020,
table 2.1 and appendix B; the vocabulary is rounded up to a multiple of 128.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """The published model on its slice: blocks recomputed, activations in bfloat16."""
    config = default_config()
    config.experiment = "gpt3_13b"
    config.job = "train"
    config.compile.target = "v4-256"
    model = {**dataclasses.asdict(models.preset("gpt3-13b")), "preset": ""}
    model["vocab_size"] = -(-model["vocab_size"] // 128) * 128
    config.model.update({**model, "compute_dtype": "bfloat16", "remat": "block", "layers": "scan"})
    config.mesh.update({"data": 1, "fsdp": 128})
    config.train.update({"batch_size": 1024, "micro_batches": 2, "tokens": 300_000_000_000})
    config.optim.learning_rate = 1e-4
    config.optim.warmup_fraction = 375e6 / 300e9
    return config
