"""GPT-2 XL, 1.5B parameters, with a mesh that fits a slice of 16 chips.

    python -m gptjax.main --config=experiments/gpt2_xl.py --config.job=compile

compiles the training step for the slice named below, says what one chip needs and how long a step
takes at the chip's published rates; it wants `pip install 'gptjax[tpu]'` and no TPU, and took 349
seconds on 2 CPU cores. `--config.job=plan_mesh` compares this mesh with the others. To train, start
the same command on the slice without the job and with your text, as docs/scaling_up.md shows;
nobody has trained it here. The batch is that of Radford et al. 2019, section 2.3; learning rate and
warm-up are those of Brown et al. 2020, table 2.1, for 1.3B, because GPT-2's were not published; the
tokens are 20 a parameter.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import models
from gptjax.config import default_config


def get_config() -> ConfigDict:
    """The published model on its slice: blocks recomputed, activations in bfloat16."""
    config = default_config()
    config.experiment = "gpt2_xl"
    config.job = "train"
    config.compile.target = "v5e-16"
    model = {**dataclasses.asdict(models.preset("gpt2-xl")), "preset": ""}
    config.model.update({**model, "compute_dtype": "bfloat16", "remat": "block", "layers": "scan"})
    config.mesh.update({"data": 1, "fsdp": 16})
    config.train.update({"batch_size": 512, "micro_batches": 4, "tokens": 31_000_000_000})
    config.optim.learning_rate = 2e-4
    config.optim.warmup_fraction = 375e6 / 31e9
    return config
