"""GPT-3 175B, and three smaller ones, with a mesh each that fits its slice.

    python -m gptjax.main --config=experiments/gpt3_175b.py --config.job=compile

compiles the training step for the slice named below and prints what one chip needs; it wants
`pip install 'gptjax[tpu]'` and no TPU. A name after a colon chooses another model:
experiments/gpt3_175b.py:gpt2-xl, :llama3-8b, :gpt3-13b. To train, start the same command on the
slice without the job and with your text, as docs/scaling_up.md shows; nobody has trained these
here. Batches, learning rates and tokens are those of Brown et al. 2020, table 2.1; vocabularies are
rounded up to a multiple of 128, so that mesh.tensor cuts them into equal parts.
"""

import dataclasses

from ml_collections import ConfigDict

from gptjax import build, models

PRESETS = {
    "gpt2-xl": {
        "target": "v5e-16", "mesh.fsdp": 16, "train.batch_size": 256, "train.micro_batches": 4,
        "optim.learning_rate": 2e-4,
    },
    "llama3-8b": {
        "target": "v5p-64", "mesh.fsdp": 32, "train.batch_size": 128, "train.micro_batches": 4,
        "optim.learning_rate": 3e-4,
    },
    "gpt3-13b": {
        "target": "v5p-128", "mesh.fsdp": 64, "train.batch_size": 1024, "train.micro_batches": 4,
        "optim.learning_rate": 1e-4,
    },
    "gpt3-175b": {
        "target": "v5p-512", "mesh.fsdp": 64, "mesh.tensor": 4, "mesh.sequence_parallel": True,
        "train.batch_size": 1536, "train.micro_batches": 6, "optim.learning_rate": 6e-5,
    },
}  # fmt: skip


def get_config(name: str = "gpt3-175b") -> ConfigDict:
    """The published model on its slice: blocks recomputed, activations in bfloat16."""
    config = build.default_config()
    config.experiment = name
    config.job = "train"
    model = {**dataclasses.asdict(models.preset(name)), "preset": ""}
    model["vocab_size"] = -(-model["vocab_size"] // 128) * 128
    config.model.update({**model, "compute_dtype": "bfloat16", "remat": "block", "layers": "scan"})
    config.mesh.data = 1
    config.train.tokens = 300_000_000_000
    config.optim.warmup_fraction = 375e6 / 300e9
    for key, value in PRESETS[name].items():
        section, _, field = key.rpartition(".")
        (config[section] if section else config)[field] = value
    return config
