"""GPT-3 175B, with a mesh that fits a slice of 256 chips.

    python -m gptjax.main --config=experiments/gpt3_175b.py --config.job=compile

compiles the training step for the slice named below and prints what one chip needs; it wants
`pip install 'gptjax[tpu]'` and no TPU, and took 107 s on 2 CPU cores. To train, start the
same command on the slice without the job and with your text, as docs/scaling_up.md shows; nobody
has trained it here. Batch, learning rate, warm-up and tokens are those of Brown et al. 2020, table
2.1 and appendix B; the vocabulary is rounded up to a multiple of 128, so that mesh.tensor cuts it
into equal parts.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """The published model on its slice: blocks recomputed, activations in bfloat16."""
    config = default_config()
    config.experiment = "gpt3_175b"
    config.job = "train"
    config.compile.target = "v5p-512"
    model = {**dataclasses.asdict(models.preset("gpt3-175b")), "preset": ""}
    model["vocab_size"] = -(-model["vocab_size"] // 128) * 128
    config.model.update({**model, "compute_dtype": "bfloat16", "remat": "block", "layers": "scan"})
    config.mesh.update({"data": 1, "fsdp": 64, "tensor": 4})
    config.train.update({"batch_size": 1536, "micro_batches": 6, "tokens": 300_000_000_000})
    config.optim.learning_rate = 6e-5
    config.optim.warmup_fraction = 375e6 / 300e9
    return config
